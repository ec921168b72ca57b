r"""ViLD with a ResNet-50 on LVIS v1 in 20 epochs, the schedule of DetPro's comparison: 16 images a step,
shorter side 640 to 800.  DetPro starts from SoCo weights, which ``model.backbone.init_cfg`` can name, and
repeats images of infrequent classes; neither is done here.

    clipdense train vild/vild_lvis_r50_20e --work-dir work_dirs/rpn \
        -o model.roi_head.bbox_head.variant=text -o train_dataloader.dataset.regions=none
    clipdense embed regions vild/vild_lvis_r50_20e work_dirs/rpn/step_N.pth data/lvis/regions
    torchrun --nproc-per-node 8 tools/train.py vild/vild_lvis_r50_20e

Cost: not measured here.
Score: DetPro's mask APr / APc / APf / AP of this schedule is 16.8 / 25.6 / 28.5 / 25.2; ours is not measured.
"""

from mmengine.config import read_base
from mmengine.optim import LinearLR, MultiStepLR
from torch.optim import SGD

from clipdense.data.detection.datasets import CocoDetection
from clipdense.data.detection.transforms import RandomFlip, RandomResize, Resize
from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.evaluation.detection.metric import DetectionAP

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vild_mask_rcnn import *

data_root = 'data/lvis'
train_set = dict(
    type=CocoDetection,
    annotations=f'{data_root}/annotations/lvis_v1_train.json',
    images=f'{data_root}/images',
    classes='base',  # common and frequent
)
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    dataset=dict(
        **train_set,
        training=True,
        masks=True,
        regions=f'{data_root}/regions',
        transforms=[
            dict(type=RandomResize, scale=[(1333, 640), (1333, 800)]),
            dict(type=RandomFlip, prob=0.5),
        ],
    ),
)
proposal_dataset = dict(**train_set, transforms=[dict(type=Resize, scale=(1333, 800), keep_ratio=True)])
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(
        type=CocoDetection,
        annotations=f'{data_root}/annotations/lvis_v1_val.json',
        images=f'{data_root}/images',
        masks=True,
        transforms=[dict(type=Resize, scale=(1333, 800), keep_ratio=True)],
    ),
)
test_cfg = dict()
test_evaluator = dict(type=DetectionAP, protocol='lvis', kinds=('segm', 'bbox'))
train_cfg = dict(max_epochs=20)
optim_wrapper = dict(
    type=PrecisionOptimWrapper, optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=2.5e-5)
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, end=500),
    dict(type=MultiStepLR, by_epoch=True, milestones=[16], gamma=0.1),
]
