"""BLIP ViT-L/16 pre-trained as released: ``blip_b`` with a larger image tower.

    torchrun --nproc_per_node 32 tools/train.py configs/blip/blip_l.py \\
        -o train_dataloader.dataset.urls='/data/blip_129m/{00000..12899}.tar'

The image tower starts from a ViT-L of ImageNet-21k, and has stochastic depth.

Cost: 20 epochs at a batch of 2,400 in the paper, on 32 GPUs.
Score: the paper reports for 129 million pairs, fine-tuned on COCO, 82.4 % text recall at 1 and 136.7 CIDEr.
Not run here: needs 129 million pairs, both weights and 32 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .blip_b import *

model['blip'].update(size='BLIP-L', image_weights='timm/vit_large_patch16_224.augreg_in21k')
model.update(drop_path=0.1)
optim_wrapper['optimizer'].update(lr=2e-4)
