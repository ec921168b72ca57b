"""SLIP ViT-B/16 on YFCC15M (arXiv 2112.12750).

    torchrun --nproc_per_node 8 tools/train.py configs/slip/slip_vit_b_16_yfcc15m.py \\
        -o train_dataloader.dataset.urls='/data/yfcc15m/{00000..99999}.tar'

The other sizes: ``-o model.clip.size=ViT-S-16-SLIP`` or ``ViT-L-16-SLIP``; longer: 183,105 steps are 50
epochs, 366,210 are 100.  The release takes the title or the description of an image: with both in shards,
``-o train_dataloader.dataset.caption='[json:title, json:description]'``.  ``-o model.micro_batch=128`` needs
less memory, with the same gradients.

Cost: 25 epochs at a batch of 4,096 in the paper.
Score: the paper reports, for ViT-S / B / L after 25 epochs, 38.3 / 42.8 / 46.2 % ImageNet zero-shot top-1
(CLIP with the same data and epochs: 32.7 / 37.6 / 40.4 %), linear probe 66.4 / 72.1 / 76.0 %, fine-tuned
80.3 / 82.6 / 84.2 %.
Not run here: needs YFCC15M and 8 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.slip_release import *
