"""``blip_scenes_vqa`` with balanced questions, whose answer the other attributes of an object do not tell.

It starts from the BLIP whose image tower started from a CLIP; the tower is locked.

    clipdense scenes data/scenes --train 20000
    clipdense train contrastive/clip_scenes
    clipdense train blip/blip_scenes_clip
    clipdense train blip/blip_scenes_vqa_balanced

The evaluation asks the same questions as that of ``blip_scenes_vqa``.

Cost: 160 CPU-seconds in one thread, with its evaluation.
Score: three seeds, accuracy of generated answers on base / novel / unseen 0.602 / 0.646 / 0.463 (0.550 /
0.609 / 0.356 and 0.522 / 0.547 / 0.344 by ``blip_scenes_vqa``, seeds 0 and 1).
docs/research/learning_blip.md.
"""

from mmengine.config import read_base

with read_base():
    from .blip_scenes_vqa import *

model.update(blip='work_dirs/blip_scenes_clip/blip.safetensors', lock_image=True)
train_dataloader['dataset'].update(balanced=True)
