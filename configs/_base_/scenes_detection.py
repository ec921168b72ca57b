"""Scenes of 96 pixels for detectors: data.

Training labels base classes; novel ones stand in the images without a label, unseen ones nowhere.
"""

from clipdense.data.detection.datasets import CocoDetection
from clipdense.data.detection.transforms import RandomFlip

data_root = 'data/scenes_detection'
train_set = dict(
    type=CocoDetection,
    annotations=f'{data_root}/coco/annotations/instances_train.json',
    images=f'{data_root}/coco/images',
    classes='base',
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(**train_set, training=True, transforms=[dict(type=RandomFlip, prob=0.5)]),
)
proposal_dataset = train_set
test_dataloader = dict(
    batch_size=8,
    num_workers=0,
    dataset=dict(
        type=CocoDetection,
        annotations=f'{data_root}/coco/annotations/instances_val.json',
        images=f'{data_root}/coco/images',
    ),
)
