"""SLIP as released: ViT-B/16 and SimCLR, 4,096 images per step over 8 processes, three images of each."""

from torch.optim import AdamW

from clipdense.clip.model import build_clip
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.data.transforms import TrainCrop
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.slip.pretrainer import SlipPretrainer
from clipdense.methods.slip.simclr import SimClr
from clipdense.methods.slip.views import ImageViews, SimClrView

model = dict(
    type=SlipPretrainer,
    clip=dict(type=build_clip, size='ViT-B-16-SLIP', preprocess='imagenet'),
    partner=dict(type=SimClr, hidden=4096, output=256, temperature=0.1),
    ssl_scale=1.0,
)
train_dataloader = dict(
    batch_size=512,  # of each process
    num_workers=8,
    dataset=dict(
        type=ImageTextShards,
        urls='data/yfcc15m/{00000..99999}.tar',
        transform=dict(
            type=ImageViews,
            caption=dict(type=TrainCrop, size=224, scale=(0.5, 1.0), interpolation='bilinear'),
            views=dict(first=dict(type=SimClrView, size=224), second=dict(type=SimClrView, size=224)),
        ),
        shuffle=5000,
        samples_per_epoch=15_000_000,
    ),
)
train_cfg = dict(max_steps=91_552)  # 25 epochs of YFCC15M
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=3e-3, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1),
    paramwise_cfg=dict(rule='slip'),
)
param_scheduler = dict(type=WarmupCosine, warmup=3662, start=1e-6, final=1e-5)  # one epoch
