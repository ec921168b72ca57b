"""BLIP ViT-L/16 fine-tuned for captions of COCO, 384 pixels, with stochastic depth.

    torchrun --nproc_per_node 16 tools/train.py configs/blip/blip_l_caption_coco.py \\
        -o model.blip=model_large.pth

Cost: 5 epochs at a batch of 256 in the release.
Score: the paper reports 136.7 CIDEr on COCO with 129 million pairs and CapFilt.
Not run here: needs the released pre-trained weights, COCO and 16 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .blip_b_caption_coco import *

model.update(blip='model_large.pth', drop_path=0.1)
train_dataloader.update(batch_size=16)
optim_wrapper['optimizer'].update(lr=2e-6)
