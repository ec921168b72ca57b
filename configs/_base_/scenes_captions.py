"""How models learn from the captions of scenes: shards, batches of 64, AdamW."""

from torch.optim import AdamW

from clipdense.data.image_text.noun_prompts import NounPrompts
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine

data_root = 'data/scenes_long'
num_images = 60_000
noun_prompts = dict(type=NounPrompts, count=3, kind='phrase', templates=['a {}', 'a picture of a {}'])

train_dataloader = dict(
    batch_size=64,
    num_workers=1,
    dataset=dict(
        type=ImageTextShards,
        urls=f'{data_root}/shards/train',
        samples_per_epoch=num_images,
        shuffle=2000,
    ),
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.1),
)
param_scheduler = dict(type=WarmupCosine, warmup=50)
