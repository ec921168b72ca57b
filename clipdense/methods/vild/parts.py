"""The classes of mmdet that configs use, imported after the replacement for compiled mmcv operations."""

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

from clipdense.clip.timm_maps import TimmMaps

FOUND_BY_MMDET = ('nms', 'soft_nms', 'RoIAlign', 'BN', 'SyncBN', 'GN')  # classes that mmdet looks up by name

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
    'TimmMaps',
]
