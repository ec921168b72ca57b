"""The parts of mmdet that configs are made of, imported behind the stand-in for compiled mmcv."""

from mmdet.models import (
    FPN,
    CrossEntropyLoss,
    DetDataPreprocessor,
    FCNMaskHead,
    L1Loss,
    ResNet,
    RPNHead,
    SingleRoIExtractor,
    SmoothL1Loss,
)
from mmdet.models.task_modules import AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, RandomSampler

FOUND_BY_MMDET = ('nms', 'soft_nms', 'RoIAlign', 'BN', 'SyncBN', 'GN')  # what it knows by these names alone

__all__ = [
    'FPN',
    'AnchorGenerator',
    'CrossEntropyLoss',
    'DeltaXYWHBBoxCoder',
    'DetDataPreprocessor',
    'FCNMaskHead',
    'L1Loss',
    'MaxIoUAssigner',
    'RPNHead',
    'RandomSampler',
    'ResNet',
    'SingleRoIExtractor',
    'SmoothL1Loss',
]
