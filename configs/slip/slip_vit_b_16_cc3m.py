"""SLIP ViT-B/16 on Conceptual Captions 3M (arXiv 2112.12750).

    torchrun --nproc_per_node 8 tools/train.py configs/slip/slip_vit_b_16_cc3m.py \\
        -o train_dataloader.dataset.urls='/data/cc3m/{00000..00331}.tar'

The epochs are those of the release's table; everything else as for YFCC15M.  Users of the release report
lower numbers (14.1 % for CLIP, 18.4 % for SLIP: facebookresearch/SLIP issue 9).

Cost: 40 epochs at a batch of 4,096 in the paper.
Score: the paper reports 23.0 % ImageNet zero-shot top-1 (CLIP 17.1 %), linear probe 65.4 % (53.3 %),
fine-tuned 81.4 % (79.5 %).
Not run here: needs CC3M and 8 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.slip_release import *

train_dataloader['dataset'].update(urls='data/cc3m/{00000..00331}.tar', samples_per_epoch=3_000_000)
train_cfg = dict(max_steps=29_296)  # 40 epochs
param_scheduler.update(warmup=732)
