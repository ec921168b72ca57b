"""CLIP ViT-B/16 as OpenAI trained it, on 400 million pairs.

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/clip_vit_b_16_openai.py \\
        --cfg-options train_dataloader.dataset.urls='/data/wit/{00000..99999}.tar'

Cost: not run by us.  The paper: 32 epochs at a batch of 32,768.
Score: the paper's is 68.6 % ImageNet zero-shot top-1 (Radford et al. 2021); ours is not measured.
Any webdataset shards will do: the 400 million pairs of the paper are not public.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.clip.model import build_clip
from clipdense.data.shards import ImageTextShards
from clipdense.data.transforms import SquareCrop
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

with read_base():
    from .._base_.default_runtime import *

model = dict(
    type=ContrastivePretrainer,
    clip=dict(type=build_clip, size='ViT-B-16-quickgelu'),
    micro_batch=256,
)
train_dataloader = dict(
    batch_size=4096,  # of each process; 32,768 over 8 processes
    num_workers=8,
    dataset=dict(
        type=ImageTextShards,
        urls='data/wit/{00000..99999}.tar',
        batch_size=4096,
        transform=dict(type=SquareCrop, size=224),
        shuffle=5000,
        samples_per_epoch=400_000_000,
    ),
)
train_cfg = dict(max_steps=390_625)  # 32 epochs
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=0.0005, betas=(0.9, 0.98), eps=1e-06, weight_decay=0.2),
)
param_scheduler = [dict(type=WarmupCosine, warmup=2000)]
