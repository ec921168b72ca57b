"""LSeg on ADE20K with a small backbone: the paper's ablation of the regularization block.

    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_b_32_ade20k.py

Cost: 240 epochs of ADE20K.
Score: the paper gives, from memory of its table, 37.83 mIoU without a block, 39.79 with this one (bottleneck,
depth 2), 39.45 with a depthwise one of depth 2, and 0.18 with a depthwise one of depth 4.
Not run here: needs ADE20K and 8 GPUs for days.
"""

from mmengine.config import read_base

from clipdense.methods.lseg.regularize import BottleneckBlock

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_ade20k import *
    from .._base_.lseg_release import *

model['backbone'].update(channels=(96, 192, 384, 768))
model['backbone']['vit'].update(name='vit_base_patch32_384.augreg_in21k_ft_in1k')
model.update(block=dict(type=BottleneckBlock, depth=2))
