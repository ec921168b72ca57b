"""The image tower of ``slip_scenes`` by self-supervision alone: the first stage of the serial variant.

    clipdense scenes data/scenes --train 20000
    clipdense train slip/slip_scenes_alone

The file it writes has an untrained text tower: ``slip_scenes_serial`` trains it.

Cost: 104 CPU-seconds in one thread.
Score: seed 0, a linear classifier on the tower 0.359 / 0.522 / 0.541 on base / novel / unseen, nearest
neighbors 0.255 / 0.386 / 0.380.
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
    clip_weight=0.0,
    partner=dict(type=SimClr, hidden=512, output=128),
)
train_dataloader.update(batch_size=128)
train_dataloader['dataset'].update(
    urls=f'{data_root}/shards/train',
    samples_per_epoch=num_images,
    transform=dict(type=ImageViews, views=scene_views),
)
train_cfg = dict(max_steps=160)
optim_wrapper['optimizer'].update(lr=2e-3)
