"""SLIP on the captions and images of scenes, with a small ResNet: CLIP and SimCLR together.

    clipdense scenes data/scenes --train 20000
    clipdense train slip/slip_scenes

Another partner: ``-o model.partner.type=clipdense.methods.slip.byol.Byol`` (``moco.MocoV3``, ``dino.Dino``).

Cost: 130 CPU-seconds in one thread.
Score: zero-shot accuracy among own names 0.448 / 0.579 / 0.439 on base / novel / unseen, a linear classifier
on the tower 0.473 / 0.639 / 0.605, mIoU without masks 0.039 / 0.065 / 0.044, mean of three seeds: below
``slip_scenes_clip``, which costs less.  docs/research/learning_slip.md says why that may be.
"""

from mmengine.config import read_base

from clipdense.methods.slip.pretrainer import SlipPretrainer
from clipdense.methods.slip.simclr import SimClr
from clipdense.methods.slip.views import ImageViews

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_captions import *
    from .._base_.slip_scenes import *

data_root = 'data/scenes'
num_images = 20_000

model = dict(
    type=SlipPretrainer,
    clip=small_clip,
    partner=dict(type=SimClr, hidden=512, output=128),
)
train_dataloader.update(batch_size=128)
train_dataloader['dataset'].update(
    urls=f'{data_root}/shards/train',
    samples_per_epoch=num_images,
    transform=dict(
        type=ImageViews,
        caption='unchanged',
        views=scene_views,
    ),
)
train_cfg = dict(max_steps=160)
optim_wrapper['optimizer'].update(lr=2e-3)
