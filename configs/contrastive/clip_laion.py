"""CLIP on LAION with open_clip's defaults; ViT-B/16 on LAION-400M unless the options say otherwise.

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/clip_laion.py \\
        -o train_dataloader.dataset.urls='/data/laion400m/{00000..99999}.tar'

ViT-H/14 on LAION-2B, 32 billion samples:

    torchrun --nproc_per_node 8 tools/train.py configs/contrastive/clip_laion.py \\
        -o train_dataloader.dataset.urls='/data/laion2b/{00000..99999}.tar' \\
        -o train_dataloader.dataset.samples_per_epoch=2000000000 -o train_cfg.max_steps=976562 \\
        -o model.clip.size=ViT-H-14 -o model.micro_batch=256 -o model.gradient_checkpointing=true

Batch and learning rate are our choice in the range that open_clip documents, not a record of its run.
Cost: 13 billion samples (ViT-B/16) and 32 billion (ViT-H/14) in open_clip's runs.
Score: open_clip's published table has ImageNet zero-shot top-1 of 67.05 % (ViT-B/16) and 77.96 % (ViT-H/14).
Not run here: needs LAION-400M or LAION-2B, and 8 GPUs for weeks.
"""

from mmengine.config import read_base

from clipdense.data.transforms import TrainCrop

with read_base():
    from .._base_.clip_pretrain import *
    from .._base_.default_runtime import *

model.update(micro_batch=512)
model['clip'].update(size='ViT-B-16')
train_dataloader['dataset'].update(
    urls='data/laion400m/{00000..99999}.tar', transform=dict(type=TrainCrop, size=224)
)
