"""GroupViT (ViT-S/16, two grouping stages) on CC3M, CC12M and YFCC14M, as released: 16 processes."""

from torch.optim import AdamW

from clipdense.data.augment import StrongAugment
from clipdense.data.image_text.noun_prompts import NounPrompts
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.pretrainer import GroupVitPretrainer

model = dict(
    type=GroupVitPretrainer,
    clip=dict(type=build_group_vit, size='GroupViT-S-16', drop_path=0.1),
    multi_label_weight=1.0,
    form='mean',  # 'sum' is the paper's equation 7
)
train_dataloader = dict(
    batch_size=256,  # of each process; 4,096 over 16 processes
    num_workers=6,
    dataset=dict(
        type=ImageTextShards,
        urls=[
            'data/gcc3m_shards',
            'data/gcc12m_shards',
            'data/yfcc14m_shards',
        ],
        transform=dict(type=StrongAugment, size=224),
        tokenizer=dict(type=NounPrompts, count=3, kind='word', templates='imagenet'),
        shuffle=10_000,
        samples_per_epoch=28_662_893,
    ),
)
train_cfg = dict(max_steps=209_933)  # 30 epochs
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=1.6e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    paramwise_cfg=dict(rule='open_clip 3.3.0'),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type=WarmupCosine, warmup=13_995, start=4e-6, final=4e-5)  # two epochs
