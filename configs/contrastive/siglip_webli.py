"""SigLIP ViT-B/16: a sigmoid for each pair instead of a softmax over the batch.

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/siglip_webli.py \\
        -o train_dataloader.dataset.urls='/data/shards/{00000..99999}.tar'

Any webdataset shards will do.
Cost: 10 billion samples, our choice.
Score: open_clip measures 76.04 % ImageNet zero-shot top-1 with the published weights.
Not run here: needs WebLI, which is not public, and 8 GPUs for weeks.
"""

from mmengine.config import read_base

from clipdense.data.transforms import TrainCrop
from clipdense.vocab.huggingface import HuggingFaceTokenizer

with read_base():
    from .._base_.clip_pretrain import *
    from .._base_.default_runtime import *

model.update(loss='sigmoid', micro_batch=512)
model['clip'].update(size='ViT-B-16-SigLIP', preprocess='siglip')
train_dataloader['dataset'].update(
    urls='data/webli/{00000..99999}.tar',
    transform=dict(type=TrainCrop, size=224),
    tokenizer=dict(
        type=HuggingFaceTokenizer, folder='data/siglip_tokenizer', context_length=64, clean='canonicalize'
    ),
    samples_per_epoch=1_000_000_000,
)
train_cfg = dict(max_steps=305_175)
optim_wrapper['optimizer'].update(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=1e-4)
