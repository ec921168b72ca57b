"""DenseCLIP on ADE20K with CLIP's RN50, as published.

    torchrun --nproc_per_node 8 tools/train.py configs/denseclip/denseclip_rn50_ade20k.py

Cost: 80,000 steps of 32 crops of 512 pixels.
Score: published (README of raoyongming/DenseCLIP): 43.5 mIoU in one scale, 44.7 in several; the same backbone
without class embeddings 39.6 and 41.6.
Not run here: needs ADE20K and 8 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.denseclip_ade20k import *
