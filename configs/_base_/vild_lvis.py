"""LVIS v1 for ViLD, base classes for training, and what its detectors are measured by."""

from clipdense.data.detection.datasets import CocoDetection
from clipdense.evaluation.detection.metric import DetectionAP

data_root = 'data/lvis'
train_set = dict(
    type=CocoDetection,
    annotations=f'{data_root}/annotations/lvis_v1_train.json',
    images=f'{data_root}/images',
    classes='base',  # common and frequent
)
train_dataloader = dict(
    num_workers=8,
    dataset=dict(**train_set, training=True, masks=True, regions=f'{data_root}/regions'),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(
        type=CocoDetection,
        annotations=f'{data_root}/annotations/lvis_v1_val.json',
        images=f'{data_root}/images',
        masks=True,
    ),
)
test_cfg = dict()
test_evaluator = dict(type=DetectionAP, protocol='lvis', kinds=('segm', 'bbox'))
