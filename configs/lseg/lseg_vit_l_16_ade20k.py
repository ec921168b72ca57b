"""LSeg on ADE20K as published: ViT-L/16, class names embedded by CLIP ViT-B/32.

    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_ade20k.py

PASCAL VOC 2012, 20 classes and the background, for which no score was published:

    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_ade20k.py \\
        -o train_dataloader.dataset.dataset.benchmark=voc21 -o test_dataloader.dataset.benchmark=voc21 \\
        -o train_dataloader.dataset.dataset.root=data/VOCdevkit/VOC2012 \\
        -o test_dataloader.dataset.root=data/VOCdevkit/VOC2012

A folder of your own in VOC's layout: see ``lseg_camvid``.  Differs from the release: names are embedded once.
Cost: users of the release report about 90 hours on 8 V100.
Score: the paper gives 46.28 mIoU and 82.46 pixel accuracy, and 47.25 and 82.78 with the text tower of RN50x16
(``-o model.clip=RN50x16/openai``), from memory of its table.
Not run here: needs ADE20K and 8 GPUs for days.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_ade20k import *
    from .._base_.lseg_release import *
