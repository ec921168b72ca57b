"""A small GroupViT for scenes: one grouping stage, eight groups, on three blocks of the CLIP of clip_scenes,
whose weights it starts from."""

from torch.optim import AdamW

from clipdense.data.noun_prompts import NounPrompts
from clipdense.data.shards import ImageTextShards
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.pretrainer import GroupVitPretrainer

data_root = 'data/scenes_long'
num_images = 60_000

model = dict(
    type=GroupVitPretrainer,
    clip=dict(
        type=build_group_vit,
        spread=True,
        size=dict(
            image=dict(
                image_size=32,
                patch_size=4,
                stages=[
                    dict(depth=3, width=96, heads=3, group_tokens=8, groups=8),
                    dict(depth=0, width=96, heads=3),  # with a block here groups learn of one another
                ],
                embed_dim=96,
                projector_width=384,
                mlp_ratio=2.0,
            ),
            text=dict(width=96, layers=2, heads=3, mlp_width=192, embed_dim=96, activation='gelu'),
        ),
    ),
    start='work_dirs/clip_scenes/clip.safetensors',
    equal_texts_match=True,  # 48 phrases: each is in many captions of a batch
)
train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        type=ImageTextShards,
        urls=f'{data_root}/shards/train',
        batch_size=64,
        tokenizer=dict(type=NounPrompts, count=3, kind='phrase', templates=['a {}', 'an image of a {}']),
        samples_per_epoch=num_images,
        shuffle=2000,
    ),
)
train_cfg = dict(max_steps=600)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [dict(type=WarmupCosine, warmup=100)]
