"""CLIP ViT-B/16 on YFCC15M, the baseline of SLIP (arXiv 2112.12750).

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/clip_vit_b_16_yfcc15m.py \\
        -o train_dataloader.dataset.urls='/data/yfcc15m/{00000..99999}.tar'

Cost: 25 epochs at a batch of 4,096 in the paper.
Score: the paper reports 37.6 % ImageNet zero-shot top-1.
Not run here: needs YFCC15M and 8 GPUs.
"""

from mmengine.config import read_base

from clipdense.data.transforms import TrainCrop

with read_base():
    from .._base_.clip_pretrain import *
    from .._base_.default_runtime import *

model.update(micro_batch=None)
model['clip'].update(size='ViT-B-16-SLIP', preprocess='imagenet')
train_dataloader.merge(
    dict(
        batch_size=512,  # of each process; 4,096 over 8 processes
        dataset=dict(
            urls='data/yfcc15m/{00000..99999}.tar',
            transform=dict(type=TrainCrop, scale=(0.5, 1.0), interpolation='bilinear'),
            samples_per_epoch=15_000_000,
        ),
    )
)
train_cfg = dict(max_steps=91_552)  # 25 epochs
optim_wrapper.update(paramwise_cfg=dict(rule='slip'))
optim_wrapper['optimizer'].update(eps=1e-8, weight_decay=0.5)
param_scheduler.update(warmup=3662, start=1e-6, final=1e-5)
