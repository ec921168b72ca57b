"""The BLIP of ``blip_scenes`` whose image tower starts from that of a CLIP of scenes, as the paper's starts
from an ImageNet classifier; the tower has one block more.  Negatives of matching are drawn alike.

    clipdense scenes data/scenes --train 20000
    clipdense train contrastive/clip_scenes
    clipdense train blip/blip_scenes_clip

Cost: see docs/research/learning_blip.md.
Score: see there.
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
