"""CLIP RN50 on YFCC15M, with open_clip's defaults.

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/clip_rn50_yfcc15m.py \\
        --cfg-options train_dataloader.dataset.urls='/data/yfcc15m/{00000..99999}.tar'

Cost: not run by us.  Not documented by open_clip beyond its defaults.
Score: open_clip's is 32.75 % ImageNet zero-shot top-1 (its published table); ours is not measured.
Batch and length are our choice, not a record of its run.
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
    clip=dict(type=build_clip, size='RN50-quickgelu'),
)
train_dataloader = dict(
    batch_size=512,  # of each process; 4,096 over 8 processes
    num_workers=8,
    dataset=dict(
        type=ImageTextShards,
        urls='data/yfcc15m/{00000..99999}.tar',
        batch_size=512,
        transform=dict(type=TrainCrop, size=224),
        shuffle=5000,
        samples_per_epoch=15_000_000,
    ),
)
train_cfg = dict(max_steps=117_187)  # 32 epochs
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=0.0005, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.2),
)
param_scheduler = [dict(type=WarmupCosine, warmup=10_000)]
