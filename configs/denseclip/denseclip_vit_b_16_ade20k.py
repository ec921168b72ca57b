"""DenseCLIP on ADE20K with CLIP's ViT-B/16, as published.

    torchrun --nproc_per_node 8 tools/train.py configs/denseclip/denseclip_vit_b_16_ade20k.py

Cost: 80,000 steps of 32 crops of 640 pixels.
Score: published (README of raoyongming/DenseCLIP): 50.6 mIoU in one scale, 51.3 in several; the same backbone
without class embeddings 49.4 and 50.3.
Not run here: needs ADE20K and 8 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.denseclip_ade20k import *

model.update(clip='ViT-B-16/openai')
model['slide'].update(short_side=640, long_side=2560, window=640, stride=426)
train_dataloader['dataset'].update(size=640, long_side=853)
