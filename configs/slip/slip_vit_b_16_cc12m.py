"""SLIP ViT-B/16 on Conceptual 12M (arXiv 2112.12750).

    torchrun --nproc_per_node 8 tools/train.py configs/slip/slip_vit_b_16_cc12m.py \\
        -o train_dataloader.dataset.urls='/data/cc12m/{00000..01242}.tar'

The epochs are those of the release's table; everything else as for YFCC15M.

Cost: 35 epochs at a batch of 4,096 in the paper.
Score: the paper reports 40.7 % ImageNet zero-shot top-1 (CLIP 36.5 %), linear probe 73.7 % (69.0 %),
fine-tuned 83.1 % (82.1 %).
Not run here: needs CC12M and 8 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.slip_release import *

train_dataloader['dataset'].update(urls='data/cc12m/{00000..01242}.tar', samples_per_epoch=12_000_000)
train_cfg = dict(max_steps=102_539)  # 35 epochs
param_scheduler.update(warmup=2929)
