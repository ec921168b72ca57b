"""Contrastive pre-training on image-text shards: ViT-B/16 as OpenAI trained it, on 8 processes."""

from torch.optim import AdamW

from clipdense.clip.model import build_clip
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.data.transforms import SquareCrop
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

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
        transform=dict(type=SquareCrop, size=224),
        shuffle=5000,
        samples_per_epoch=400_000_000,
    ),
)
train_cfg = dict(max_steps=390_625)  # 32 epochs
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2),
)
param_scheduler = dict(type=WarmupCosine, warmup=2000)
