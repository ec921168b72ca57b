"""Transforms of images with boxes for detectors.  n: objects, R: regions.

Flips, resizes and crops are mmdet's.  They store their combined 3 x 3 matrix, which is applied to the
regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmcv.transforms import RandomResize as McvRandomResize
from mmdet.datasets.transforms import RandomCrop, RandomFlip
from mmdet.datasets.transforms import Resize as MmdetResize
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from numpy.typing import NDArray

from clipdense.registry import TRANSFORMS

__all__ = ['PackDetection', 'RandomCrop', 'RandomFlip', 'RandomResize', 'Resize', 'follow']

_META = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip')
_TEXTS = ('caption', 'phrases', 'other_captions', 'other_phrases')  # of captions with boxes


def follow(
    boxes: NDArray[np.floating], matrix: NDArray[np.floating], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Boxes in original pixels -> boxes in the transformed image.

    Args:
        boxes: (R, 4) x1, y1, x2, y2.
        matrix: (3, 3), for points as columns.
        size: (H, W) of the transformed image.

    Returns:
        (R, 4) boxes clipped at the border, and (R,) the remaining fraction of their area.
    """
    x1, y1, x2, y2 = boxes.astype(np.float64).T
    corners = np.stack([[x1, x2, x1, x2], [y1, y1, y2, y2], np.ones((4, len(boxes)))])  # (3, 4, R)
    moved = np.einsum('ij,jkr->ikr', matrix.astype(np.float64), corners)
    x, y = moved[:2] / moved[2]  # (4, R) each
    whole = np.stack([x.min(0), y.min(0), x.max(0), y.max(0)], axis=1)  # (R, 4)
    height, width = size
    cut = whole.clip(0, [width, height, width, height])
    left = (cut[:, 2:] - cut[:, :2]).prod(axis=1)
    area = (whole[:, 2:] - whole[:, :2]).prod(axis=1)
    return cut.astype(np.float32), (left / np.maximum(area, 1e-9)).astype(np.float32)


@TRANSFORMS.register_module()
class Resize(MmdetResize):
    """mmdet's resize, but with a height and width of at least one pixel."""

    def _resize_img(self, results: dict[str, Any]) -> None:
        height, width = results['img'].shape[:2]
        size = mmcv.rescale_size((width, height), results['scale'])
        if not self.keep_ratio or min(size) >= 1:
            super()._resize_img(results)
            return
        size = (max(size[0], 1), max(size[1], 1))
        results['img'] = mmcv.imresize(
            results['img'], size, interpolation=self.interpolation, backend=self.backend
        )
        results['img_shape'], results['keep_ratio'] = size[::-1], self.keep_ratio
        results['scale_factor'] = (size[0] / width, size[1] / height)


@TRANSFORMS.register_module()
class RandomResize(McvRandomResize):
    """mmcv's, with mmdet's resize, which stores its matrix.

    Args:
        scale: (width, height) that the ratio is applied to, or two of them to draw from.
        ratio_range: smallest and largest factor.
        keep_ratio: whether to keep the aspect ratio.
    """

    def __init__(
        self,
        scale: tuple[int, int] | Sequence[tuple[int, int]],
        ratio_range: tuple[float, float] | None = None,
        keep_ratio: bool = True,
    ) -> None:
        super().__init__(scale, ratio_range, resize_type=Resize, keep_ratio=keep_ratio)


@TRANSFORMS.register_module()
class PackDetection(BaseTransform):
    """The last step: mmdet's ``inputs`` (3, H, W) uint8 and ``data_samples``.

    Regions (``results['regions']``, boxes in original pixels and embeddings) become ``data_sample.regions``.

    Args:
        visible: regions with a smaller remaining fraction are dropped: they no longer match what the
            teacher saw.
        smallest: minimum side of a region, in pixels of the network's input.
    """

    def __init__(self, visible: float = 0.5, smallest: float = 1.0) -> None:
        self.visible, self.smallest = visible, smallest

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """One image, after all other transforms."""
        image = np.ascontiguousarray(results['img'].transpose(2, 0, 1))
        meta = {key: results[key] for key in (*_META, *_TEXTS) if key in results}
        meta.setdefault('scale_factor', (1.0, 1.0))
        sample = DetDataSample(metainfo=meta)
        if 'gt_bboxes' in results:
            sample.gt_instances, sample.ignored_instances = _objects(results)
        if 'regions' in results:
            sample.regions = self._regions(results)
        return {'inputs': torch.from_numpy(image), 'data_samples': sample}

    def _regions(self, results: dict[str, Any]) -> InstanceData:
        boxes, embeddings = results['regions']
        matrix = results.get('homography_matrix', np.eye(3))
        moved, share = follow(boxes, matrix, results['img_shape'][:2])
        kept = (share >= self.visible) & ((moved[:, 2:] - moved[:, :2]) > self.smallest).all(axis=1)
        return InstanceData(
            bboxes=torch.from_numpy(moved[kept]),
            embeddings=torch.from_numpy(embeddings[kept].astype(np.float32)),
        )


def _objects(results: dict[str, Any]) -> tuple[InstanceData, InstanceData]:
    """Objects, and ignored objects (crowds)."""
    ignored = torch.from_numpy(results['gt_ignore_flags'].astype(bool))
    boxes = results['gt_bboxes'].tensor.float()
    labels = torch.from_numpy(results['gt_bboxes_labels'].astype(np.int64))
    objects = InstanceData(bboxes=boxes[~ignored], labels=labels[~ignored])
    if 'gt_masks' in results:
        objects.masks = results['gt_masks'][np.flatnonzero(~ignored.numpy())]
    return objects, InstanceData(bboxes=boxes[ignored], labels=labels[ignored])
