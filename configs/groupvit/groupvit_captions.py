"""A GroupViT on images and captions of your own: a CLIP that learns to group, with a learned background.

    clipdense train groupvit/groupvit_captions -o train_dataloader.dataset.path=mine/captions.tsv

The file is a tab-separated table with a header and two columns, filepath and title; paths are relative to
its folder.  The tower is ViT-B/16 in two stages, of nine blocks with eight groups at their end, and of three;
blocks, positions and the text tower are those of a published CLIP, so that captions of thousands of images
are worth trying, where the released setting (groupvit_gcc_yfcc) reads 29 million from scratch.

Cost: 3,000 steps of 256 images through a ViT-B/16, work for a GPU.
Score: the same way of training is measured on scenes, see groupvit_background_scenes.
Not run here: needs your captions, the weights of a ViT-B/16 and a GPU.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.data.augment import StrongAugment
from clipdense.data.image_text.datasets import CsvPairs
from clipdense.data.image_text.noun_prompts import NounPrompts
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.pretrainer import GroupVitPretrainer

with read_base():
    from .._base_.default_runtime import *

model = dict(
    type=GroupVitPretrainer,
    clip=dict(
        type=build_group_vit,
        spread=True,
        size=dict(
            image=dict(
                image_size=224,
                patch_size=16,
                stages=[
                    dict(depth=9, width=768, num_heads=12, group_tokens=8, groups=8),
                    dict(depth=3, width=768, num_heads=12),
                ],
                embed_dim=512,
            ),
            text=dict(width=512, layers=12, num_heads=8, mlp_width=2048, embed_dim=512, activation='gelu'),
            background=True,
        ),
    ),
    start='ViT-B-16/laion2b_s34b_b88k',  # downloaded on first use; any ViT-B/16 with GELU
    background_weight=1.0,
    equal_texts_match=True,  # small sets of captions repeat themselves
    micro_batch=32,
)
train_dataloader = dict(
    batch_size=256,
    num_workers=4,
    dataset=dict(
        type=CsvPairs,
        path='data/captions/captions.tsv',
        transform=dict(type=StrongAugment, size=224),
        tokenizer=dict(type=NounPrompts, count=3, kind='phrase', templates='imagenet'),
    ),
)
train_cfg = dict(max_steps=3000)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05),
    paramwise_cfg=dict(rule='open_clip 3.3.0'),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = dict(type=WarmupCosine, warmup=300)
