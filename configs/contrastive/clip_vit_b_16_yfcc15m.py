"""CLIP ViT-B/16 on YFCC15M, the baseline of SLIP.

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/clip_vit_b_16_yfcc15m.py \\
        --cfg-options train_dataloader.dataset.urls='/data/yfcc15m/{00000..99999}.tar'

Cost: not run by us.  The paper: 25 epochs at a batch of 4,096.
Score: the paper's is 37.6 % ImageNet zero-shot top-1 (arXiv 2112.12750); ours is not measured.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.clip.model import build_clip
from clipdense.data.shards import ImageTextShards
from clipdense.data.transforms import TrainCrop
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

with read_base():
    from .._base_.default_runtime import *

model = dict(
    type=ContrastivePretrainer,
    clip=dict(type=build_clip, size='ViT-B-16-SLIP', preprocess='imagenet'),
)
train_dataloader = dict(
    batch_size=512,  # of each process; 4,096 over 8 processes
    num_workers=8,
    dataset=dict(
        type=ImageTextShards,
        urls='data/yfcc15m/{00000..99999}.tar',
        batch_size=512,
        transform=dict(type=TrainCrop, size=224, scale=(0.5, 1.0), interpolation='bilinear'),
        shuffle=5000,
        samples_per_epoch=15_000_000,
    ),
)
train_cfg = dict(max_steps=91_552)  # 25 epochs
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=0.0005, betas=(0.9, 0.98), eps=1e-08, weight_decay=0.5),
    paramwise_cfg=dict(rule='open_clip 3.3.0'),
)
param_scheduler = [dict(type=WarmupCosine, warmup=3662, start=1e-6, final=1e-5)]
