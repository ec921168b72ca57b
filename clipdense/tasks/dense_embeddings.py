"""Embeddings of the pixels of an encoded image, merged over windows and views.

D: joint space, (h, w): grid of cells, (H, W): pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.layers.precision import no_autocast

from .reduction import merge_windows
from .segmentation import SegmentationModel
from .views import EncodedImage, View

_CHUNK = 64 << 20  # bytes of full-size planes that are merged at a time


@torch.no_grad()
def dense_embeddings(
    model: SegmentationModel, image: EncodedImage, size: tuple[int, int] | None = None
) -> Tensor:
    """Unit embeddings of the pixels of an image, as the model's adapter changes them.

    Args:
        model: a model with ``pixel_embeddings``.
        image: the image.
        size: (H, W) of the result, bilinear as class scores are; None for one embedding for each cell of the
            model at its largest scale: where windows overlap or views are averaged, the mean over the cell.

    Returns:
        (D, H, W) or (D, h, w), fp32.

    Raises:
        InputError: the method has no embedding of each pixel.
    """
    with no_autocast(image.image.device):
        views = [model.adapted(view) for view in image.views]
        views.sort(key=lambda view: -view.size[0] * view.size[1])  # the finest grid first
        windows = [list(_windows(model, view)) for view in views]
        first, (height, width) = windows[0][0], views[0].size
        window = views[0].windows[0]
        extent = model.embedding_extent((window.bottom - window.top, window.right - window.left))
        grid = (
            max(1, round(height * first.shape[-2] / extent[0])),
            max(1, round(width * first.shape[-1] / extent[1])),
        )
        whole = len(views) == 1 and len(windows[0]) == 1 and extent == (height, width)
        if whole and size is None:
            return first[0].float()
        return _merged(model, views, windows, size, grid)


def _windows(model: SegmentationModel, view: View) -> Iterator[Tensor]:
    """Unit embeddings (1, D, h, w) of one window after another."""
    for features in view.features:
        yield from model.pixel_embeddings(features).split(1)


def _merged(
    model: SegmentationModel,
    views: list[View],
    windows: list[list[Tensor]],
    size: tuple[int, int] | None,
    grid: tuple[int, int],
) -> Tensor:
    """The normalized mean, computed for a few channels at a time."""
    full, dim = size or views[0].size, windows[0][0].shape[1]
    pixels = max(full[0] * full[1], views[0].size[0] * views[0].size[1])
    result = windows[0][0].new_empty(dim, *(size or grid), dtype=torch.float32)
    for channels in torch.arange(dim).split(max(1, _CHUNK // (16 * pixels))):
        part = slice(int(channels[0]), int(channels[-1]) + 1)
        total = torch.zeros((), device=result.device)
        for view, embeddings in zip(views, windows, strict=True):
            own = [
                _fitted(model, one[:, part].float(), (w.bottom - w.top, w.right - w.left))
                for one, w in zip(embeddings, view.windows, strict=True)
            ]
            merged = merge_windows(own, view.windows, view.size, full)
            total = total + (merged.flip(-1) if view.mirrored else merged)
        result[part] = total if size else F.adaptive_avg_pool2d(total[None], grid)[0]
    norm = sum(one.square() for one in result)
    assert isinstance(norm, Tensor)
    return result.div_(norm.sqrt_().clamp_(min=1e-12))


def _fitted(model: SegmentationModel, embeddings: Tensor, size: tuple[int, int]) -> Tensor:
    """Without the padding of a window, if it has one."""
    return embeddings if model.embedding_extent(size) == size else model.fit_scores(embeddings, size)
