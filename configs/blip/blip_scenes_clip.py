"""The BLIP of ``blip_scenes`` whose image tower starts from that of a CLIP of scenes, as the paper's starts
from an ImageNet classifier; the tower has one block more.  Negatives of matching are drawn alike.

    clipdense scenes data/scenes --train 20000
    clipdense train contrastive/clip_scenes
    clipdense train blip/blip_scenes_clip

Cost: 405 CPU-seconds in one thread, beside other jobs.
Score: three seeds, on 12,000 captions of which half were wrong: accuracy among own names on base / novel /
unseen by similarity 0.541 / 0.716 / 0.594, by matching 0.381 / 0.536 / 0.388, captions that name the object
0.393 / 0.435 / 0.000.  docs/research/learning_blip.md.
"""

from mmengine.config import read_base

with read_base():
    from .blip_scenes import *

model.merge(
    dict(
        blip=dict(
            image_weights='work_dirs/clip_scenes/clip.safetensors',
            size=dict(image=dict(layers=4, flavour='openai'), image_eps=1e-5),
        ),
        hard_negatives=False,
    )
)
train_cfg = dict(max_steps=800)
optim_wrapper['optimizer'].update(lr=1e-3)
