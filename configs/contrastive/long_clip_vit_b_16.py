"""ViT-B/16 of OpenAI, tuned for captions of up to 248 tokens (Long-CLIP, arXiv 2403.15378).

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/long_clip_vit_b_16.py \\
        -o train_dataloader.dataset.urls='/data/long_captions/{00000..00999}.tar'

The positions are stretched as in the paper; its second loss, between short captions and the main components
of the images, is left out.
Cost: one epoch over 1 million images in the paper.
Not run here: needs long captions such as ShareGPT4V, the weights of OpenAI and GPUs.
"""

from mmengine.config import read_base

from clipdense.clip.long_texts import stretch_context
from clipdense.vocab.tokenizer import Tokenizer

with read_base():
    from .._base_.clip_pretrain import *
    from .._base_.default_runtime import *

length = 248

model['clip'] = dict(type=stretch_context, clip='ViT-B-16/openai', length=length, keep=20)
model['micro_batch'] = None
train_dataloader.merge(
    dict(
        batch_size=128,  # of each process; 1,024 over 8 processes
        dataset=dict(
            urls='data/long_captions/{00000..00999}.tar',
            tokenizer=dict(type=Tokenizer, context_length=length),
            samples_per_epoch=1_000_000,
        ),
    )
)
train_cfg = dict(max_steps=976)
optim_wrapper['optimizer'].update(lr=1e-6, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2)
param_scheduler.update(warmup=200)
