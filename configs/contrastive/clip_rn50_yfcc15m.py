"""CLIP RN50 on YFCC15M, with open_clip's defaults.

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/clip_rn50_yfcc15m.py \\
        -o train_dataloader.dataset.urls='/data/yfcc15m/{00000..99999}.tar'

Batch and length are our choice: open_clip documents its defaults only.
Cost: 32 epochs at a batch of 4,096.
Score: open_clip's published table has 32.75 % ImageNet zero-shot top-1.
Not run here: needs YFCC15M and 8 GPUs.
"""

from mmengine.config import read_base

from clipdense.data.transforms import TrainCrop

with read_base():
    from .._base_.clip_pretrain import *
    from .._base_.default_runtime import *

model.update(micro_batch=None)
model['clip'].update(size='RN50-quickgelu')
train_dataloader.merge(
    dict(
        batch_size=512,  # of each process; 4,096 over 8 processes
        dataset=dict(
            urls='data/yfcc15m/{00000..99999}.tar',
            transform=dict(type=TrainCrop),
            samples_per_epoch=15_000_000,
        ),
    )
)
train_cfg = dict(max_steps=117_187)  # 32 epochs
optim_wrapper['optimizer'].update(betas=(0.9, 0.999), eps=1e-8)
param_scheduler.update(warmup=10_000)
