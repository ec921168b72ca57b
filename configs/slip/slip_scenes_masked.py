"""CLIP and masked image modeling on scenes, with a small ViT: the tower sees a quarter of the patches of a
second crop, and a decoder of two blocks reconstructs the others.

    clipdense scenes data/scenes --train 20000
    clipdense train slip/slip_scenes_masked

Cost: none measured yet.
Score: none yet; docs/research/learning_slip.md.
"""

from mmengine.config import read_base

from clipdense.clip.model import build_clip
from clipdense.data.transforms import TrainCrop
from clipdense.methods.slip.masked import MaskedImageModeling
from clipdense.methods.slip.pretrainer import SlipPretrainer
from clipdense.methods.slip.views import ImageViews

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_captions import *
    from .._base_.slip_scenes import *

data_root = 'data/scenes'
num_images = 20_000

model = dict(
    type=SlipPretrainer,
    clip=dict(
        type=build_clip,
        size=dict(
            image=dict(
                image_size=32,
                patch_size=4,
                width=96,
                layers=4,
                num_heads=3,
                mlp_width=192,
                embed_dim=96,
                activation='gelu',
            ),
            text=dict(width=96, layers=2, num_heads=3, mlp_width=384, embed_dim=96),
        ),
    ),
    partner=dict(type=MaskedImageModeling, hidden=96, layers=2, num_heads=4),
)
train_dataloader.update(batch_size=128)
train_dataloader['dataset'].update(
    urls=f'{data_root}/shards/train',
    samples_per_epoch=num_images,
    transform=dict(
        type=ImageViews,
        caption='unchanged',
        views=dict(first=dict(type=TrainCrop, size=32, scale=(0.4, 1.0), flip=0.5)),
    ),
)
train_cfg = dict(max_steps=160)
optim_wrapper['optimizer'].update(lr=2e-3)
