"""The second stage of the serial variant: a CLIP that starts from the image tower of ``slip_scenes_alone``.

    clipdense train slip/slip_scenes_alone
    clipdense train slip/slip_scenes_serial

Cost: none measured yet.
Score: none yet; docs/research/learning_slip.md.
"""

from mmengine.config import read_base

from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_captions import *
    from .._base_.slip_scenes import *

data_root = 'data/scenes'
num_images = 20_000

model = dict(type=ContrastivePretrainer, clip='work_dirs/slip_scenes_alone/clip.safetensors')
train_dataloader.update(batch_size=128)
train_dataloader['dataset'].update(urls=f'{data_root}/shards/train', samples_per_epoch=num_images)
train_cfg = dict(max_steps=160)
optim_wrapper['optimizer'].update(lr=2e-3)
