"""BLIP ViT-B/16 pre-trained as released, on 14 million pairs.

    torchrun --nproc_per_node 32 tools/train.py configs/blip/blip_b.py \\
        -o train_dataloader.dataset.urls='/data/blip_14m/{00000..01399}.tar'

It starts from DeiT-B, without distillation, and from BERT-base, as the release does; both are downloaded from
Hugging Face, or named as files: ``-o model.blip.text_weights=bert-base-uncased/model.safetensors``.

The learning rate grows from 1e-6 over 3,000 steps, then falls by a tenth in each epoch; soft targets have
their weight after two epochs.

Cost: 20 epochs at a batch of 2,880 in the paper, on 32 GPUs.
Score: the paper reports for 14 million pairs, fine-tuned on COCO, 80.6 % text recall at 1 with CapFilt
(78.4 % without), and 129.7 CIDEr (127.8).
Not run here: needs 14 million pairs, both weights and 32 GPUs.
"""

from mmengine.config import read_base
from mmengine.optim import ExponentialLR, LinearLR

from clipdense.data.image_text.shards import ImageTextShards
from clipdense.methods.blip.model import build_blip
from clipdense.methods.blip.pretrainer import BlipPretrainer

with read_base():
    from .._base_.blip_release import *
    from .._base_.default_runtime import *

model = dict(
    type=BlipPretrainer,
    blip=dict(
        type=build_blip,
        size='BLIP-B',
        image_weights='timm/deit_base_patch16_224.fb_in1k',
        text_weights='bert-base-uncased',
    ),
    queue_size=57_600,
    momentum=0.995,
    alpha=0.4,
    ramp_steps=11_666,  # two epochs of 5,833 steps
)
train_dataloader.update(
    dataset=dict(
        type=ImageTextShards,
        urls='data/blip_14m/{00000..01399}.tar',
        transform=blip_augment,
        tokenizer=blip_ids,
        shuffle=5000,
        samples_per_epoch=14_000_000,
    )
)
train_cfg = dict(max_steps=116_666)  # 20 epochs
param_scheduler = dict(
    warmup=dict(type=LinearLR, start_factor=1 / 300, end=3000, by_epoch=False),
    decay=dict(type=ExponentialLR, gamma=0.9, by_epoch=True),
)
