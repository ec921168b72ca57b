"""The classes of mmdet that configs use, imported after the replacement for compiled mmcv operations."""

from mmdet.models import FPN, DetDataPreprocessor, ResNet, SwinTransformer

FOUND_BY_MMDET = ('BN', 'SyncBN', 'GN', 'LN', 'GELU')  # classes that mmdet looks up by name

__all__ = ['FPN', 'DetDataPreprocessor', 'ResNet', 'SwinTransformer']
