"""How LSeg was released to train and be tested: SGD, poly by epoch, and a backbone 10 times slower.

The rate is 0.004 / 16 times the 4 images of a GPU.  Tested at six sizes and mirrored, in windows of 480.

Source: isl-org/lang-seg ``modules/lsegmentation_module.py``, ``train.sh``, ``test_lseg.py``.
"""

from mmengine.optim import PolyLR
from torch.optim import SGD

from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.lseg.training import ScratchFaster

optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    constructor=ScratchFaster,
    precision='fp32',
    accumulative_counts=2,
    optimizer=dict(type=SGD, lr=1e-3, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(scratch_lr=10.0, decay_all=True),
)
param_scheduler = dict(type=PolyLR, power=0.9, by_epoch=True, begin=0, end=240)
train_cfg = dict(max_epochs=240)
sync_bn = True
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook, templates='name'))
