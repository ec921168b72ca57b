"""The CLIP that ``slip_scenes`` is compared with: the same model, data and steps, without views.

    clipdense scenes data/scenes --train 20000
    clipdense train slip/slip_scenes_clip

Cost: 56 CPU-seconds in one thread.
Score: zero-shot accuracy among own names 0.493 / 0.633 / 0.536 on base / novel / unseen, a linear classifier
on the tower 0.568 / 0.737 / 0.716, mIoU without masks 0.042 / 0.067 / 0.052, mean of three seeds.
"""

from mmengine.config import read_base

from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_captions import *
    from .._base_.slip_scenes import *

data_root = 'data/scenes'
num_images = 20_000

model = dict(type=ContrastivePretrainer, clip=small_clip)
train_dataloader.update(batch_size=128)
train_dataloader['dataset'].update(urls=f'{data_root}/shards/train', samples_per_epoch=num_images)
train_cfg = dict(max_steps=160)
optim_wrapper['optimizer'].update(lr=2e-3)
