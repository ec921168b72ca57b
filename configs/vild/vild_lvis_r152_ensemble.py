r"""ViLD-ensemble with a ResNet-152 on LVIS v1 as published: 180,000 steps of 256 images,
large-scale jitter, weight 2.0 of distillation.

Departure: regions of which less than half is left after cropping are not distilled.

    clipdense train vild/vild_lvis_r152_ensemble --work-dir work_dirs/rpn \
        -o model.roi_head.bbox_head.variant=text -o train_dataloader.dataset.regions=none
    clipdense embed regions vild/vild_lvis_r152_ensemble work_dirs/rpn/step_N.pth data/lvis/regions
    torchrun --nproc-per-node 8 tools/train.py vild/vild_lvis_r152_ensemble

Cost: not measured here.
Score: the paper's mask APr / APc / APf / AP is 19.2 / 24.8 / 30.8 / 26.2 (released weights);
ours is not measured.
"""

from mmengine.config import read_base
from mmengine.optim import LinearLR, MultiStepLR
from torch.optim import SGD

from clipdense.data.detection.datasets import CocoDetection
from clipdense.data.detection.transforms import RandomCrop, RandomFlip, RandomResize, Resize
from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.evaluation.detection.metric import DetectionAP

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vild_mask_rcnn import *

model.merge(
    dict(backbone=dict(depth=152), roi_head=dict(distill_weight=2.0, bbox_head=dict(variant='ensemble')))
)
data_root = 'data/lvis'
train_set = dict(
    type=CocoDetection,
    annotations=f'{data_root}/annotations/lvis_v1_train.json',
    images=f'{data_root}/images',
    classes='base',  # common and frequent
)
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    dataset=dict(
        **train_set,
        training=True,
        masks=True,
        regions=f'{data_root}/regions',
        transforms=[
            dict(type=RandomResize, scale=(1024, 1024), ratio_range=(0.1, 2.0)),
            dict(type=RandomCrop, crop_size=(1024, 1024), crop_type='absolute', recompute_bbox=True),
            dict(type=RandomFlip, prob=0.5),
        ],
    ),
)
proposal_dataset = dict(**train_set, transforms=[dict(type=Resize, scale=(1024, 1024), keep_ratio=True)])
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(
        type=CocoDetection,
        annotations=f'{data_root}/annotations/lvis_v1_val.json',
        images=f'{data_root}/images',
        masks=True,
        transforms=[dict(type=Resize, scale=(1024, 1024), keep_ratio=True)],
    ),
)
test_cfg = dict()
test_evaluator = dict(type=DetectionAP, protocol='lvis', kinds=('segm', 'bbox'))
train_cfg = dict(max_steps=180_000)
optim_wrapper = dict(
    type=PrecisionOptimWrapper, optimizer=dict(type=SGD, lr=0.32, momentum=0.9, weight_decay=4e-5)
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.01, by_epoch=False, end=1000),
    dict(type=MultiStepLR, by_epoch=False, milestones=[162_000, 171_000], gamma=0.1),
]
