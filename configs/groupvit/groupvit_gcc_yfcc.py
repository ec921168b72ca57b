"""GroupViT (ViT-S/16, two grouping stages) on CC3M, CC12M and YFCC14M, 28.7 million pairs, as released.

    torchrun --nproc_per_node 16 tools/train.py configs/groupvit/groupvit_gcc_yfcc.py

Nouns are found while training; `data.noun_prompts.add_nouns` writes them into the shards once and for all.

Cost: not run by us.  The paper: 16 V100 for two days, 30 epochs at a batch of 4,096.
Score: not measured by us.  The repository, of models trained again after submission:
52.3 mIoU on VOC21, 22.4 on Context60, 24.3 on COCO-Object, 43.7 % on ImageNet.
Its users report that a batch of 2,048 loses about 5 mIoU, and that two seeds of one recipe can differ by 14
on COCO-Object (NVlabs/GroupViT issues 28 and 35).  Warm-up is two epochs as in the code; the paper says five.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.data.augment import StrongAugment
from clipdense.data.noun_prompts import NounPrompts
from clipdense.data.shards import ImageTextShards
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.pretrainer import GroupVitPretrainer

with read_base():
    from .._base_.default_runtime import *

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
        batch_size=256,
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
param_scheduler = [dict(type=WarmupCosine, warmup=13_995, start=4e-6, final=4e-5)]
