"""LSeg on ADE20K in a sixth of the steps: AdamW, a cosine per step, bf16, class names embedded once.

    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_ade20k_fast.py

Cost: 40 epochs of ADE20K instead of 240.
Score: what this schedule and the released one do on scenes in equal steps is in
docs/research/learning_lseg.md.
Not run here: needs ADE20K and 8 GPUs.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.lseg.training import ScratchFaster

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_ade20k import *

model['slide'] = dict(short_side=520, long_side=520, window=480, stride=320)
train_cfg = dict(max_epochs=40)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    constructor=ScratchFaster,
    precision='bf16',
    clip_grad=dict(max_norm=1.0),
    optimizer=dict(type=AdamW, lr=2e-5, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(scratch_lr=10.0),
)
param_scheduler = dict(type=WarmupCosine, warmup=500)
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook, templates='name'))
