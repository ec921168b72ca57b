r"""ViLD with a ResNet-50 on OV-COCO: 48 base classes, tested on all 65 (AP50 of boxes).

Images that show none of them are left out, as in the published protocol: 107,761 train, 4,836 test.

The schedule is that of 20 epochs; the paper trains on COCO for longer.

    clipdense train vild/vild_coco_r50 --work-dir work_dirs/rpn \
        -o model.roi_head.bbox_head.variant=text -o train_dataloader.dataset.regions=none
    clipdense embed regions vild/vild_coco_r50 work_dirs/rpn/step_N.pth data/coco/regions
    torchrun --nproc-per-node 8 tools/train.py vild/vild_coco_r50

Cost: not measured here.
Score: the paper's AP50 novel / base / all is 27.6 / 59.5 / 51.3; ours is not measured.
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

model.roi_head.pop('mask_head')
model.roi_head.pop('mask_roi_extractor')
data_root = 'data/coco'
train_set = dict(
    type=CocoDetection,
    annotations=f'{data_root}/annotations/instances_train2017.json',
    images=f'{data_root}/train2017',
    classes='ov_coco/base',  # 48
)
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    dataset=dict(
        **train_set,
        training=True,
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
        annotations=f'{data_root}/annotations/instances_val2017.json',
        images=f'{data_root}/val2017',
        classes='ov_coco',  # 65, of which 17 are novel
        transforms=[dict(type=Resize, scale=(1333, 800), keep_ratio=True)],
    ),
)
test_cfg = dict()
test_evaluator = dict(type=DetectionAP, kinds=('bbox',))
train_cfg = dict(max_epochs=20)
optim_wrapper = dict(
    type=PrecisionOptimWrapper, optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=2.5e-5)
)
param_scheduler = [
    dict(type=LinearLR, start_factor=0.001, by_epoch=False, end=500),
    dict(type=MultiStepLR, by_epoch=True, milestones=[16], gamma=0.1),
]
