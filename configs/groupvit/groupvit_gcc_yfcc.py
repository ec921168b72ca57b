"""GroupViT (ViT-S/16, two grouping stages) on CC3M, CC12M and YFCC14M, 28.7 million pairs, as released.

    torchrun --nproc_per_node 16 tools/train.py configs/groupvit/groupvit_gcc_yfcc.py

Nouns are found during training; ``clipdense nouns`` writes them into the shards once and for all.  Warm-up is
two epochs as in the released code; the paper says five.
Cost: 16 V100 for two days in the paper, 30 epochs at a batch of 4,096.
Score: the repository, for models trained again after submission: 52.3 mIoU on VOC21, 22.4 on Context60, 24.3
on COCO-Object, 43.7 % on ImageNet.  Its users report that a batch of 2,048 loses about 5 mIoU, and that two
seeds of one setting can differ by 14 on COCO-Object (NVlabs/GroupViT issues 28 and 35).
Not run here: needs CC3M, CC12M and YFCC14M, and 16 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.groupvit_gcc import *
