"""``blip_scenes_vqa`` with questions that the other attributes of an object do not answer, from the BLIP whose
image tower started from a CLIP, which is locked.

    clipdense scenes data/scenes --train 20000
    clipdense train contrastive/clip_scenes
    clipdense train blip/blip_scenes_clip
    clipdense train blip/blip_scenes_vqa_balanced

The evaluation asks the same questions as that of ``blip_scenes_vqa``.
"""

from mmengine.config import read_base

with read_base():
    from .blip_scenes_vqa import *

model.update(blip='work_dirs/blip_scenes_clip/blip.safetensors', lock_image=True)
train_dataloader['dataset'].update(balanced=True)
