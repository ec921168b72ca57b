"""The classes of mmdet that configs use, imported after the replacement for compiled mmcv operations."""

from typing import Any

from mmdet.models import FPN, DetDataPreprocessor, ResNet, SwinTransformer

from clipdense.clip.hf_text import real_buffers
from clipdense.clip.timm_maps import TimmMaps

from .backbones import SimplePyramid

FOUND_BY_MMDET = ('BN', 'SyncBN', 'GN', 'LN', 'GELU')  # classes that mmdet looks up by name


class Swin(SwinTransformer):
    """mmdet's Swin, which can be built on the meta device too."""

    def __init__(self, **options: Any) -> None:
        with real_buffers():
            super().__init__(**options)


__all__ = ['FPN', 'DetDataPreprocessor', 'ResNet', 'SimplePyramid', 'Swin', 'TimmMaps']
