"""SigLIP ViT-B/16: a sigmoid for each pair.

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/siglip_vit_b_16_webli.py \\
        --cfg-options train_dataloader.dataset.urls='/data/webli/{00000..99999}.tar'

Cost: not run by us.  The paper trains on WebLI, which is not public.
Score: open_clip measures 76.04 % ImageNet zero-shot top-1 with the published weights; ours is not measured.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.clip.model import build_clip
from clipdense.data.shards import ImageTextShards
from clipdense.data.transforms import TrainCrop
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer
from clipdense.vocab.tokenizer import HuggingFaceTokenizer

with read_base():
    from .._base_.default_runtime import *

model = dict(
    type=ContrastivePretrainer,
    clip=dict(type=build_clip, size='ViT-B-16-SigLIP', preprocess='siglip'),
    loss='sigmoid',
    micro_batch=512,
)
train_dataloader = dict(
    batch_size=4096,  # of each process; 32,768 over 8 processes
    num_workers=8,
    dataset=dict(
        type=ImageTextShards,
        urls='data/webli/{00000..99999}.tar',
        batch_size=4096,
        transform=dict(type=TrainCrop, size=224),
        tokenizer=dict(type=HuggingFaceTokenizer, folder='data/siglip_tokenizer', context_length=64),
        shuffle=5000,
        samples_per_epoch=1_000_000_000,
    ),
)
train_cfg = dict(max_steps=305_175)  # 10 billion samples, our choice
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=0.001, betas=(0.9, 0.95), eps=1e-08, weight_decay=0.0001),
)
param_scheduler = [dict(type=WarmupCosine, warmup=2000)]
