"""Embeddings of masked pixels: averaged by class, or drawn.

m: cells of the pixel grid, D: joint space, (h, w): grid of a window, (H, W): pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.tasks.segmentation import SegmentationModel

_KEPT = 4096  # cells of a window
_ROUNDS = 10  # of k-means
_INSIDE = 0.5  # part of a cell that a class must cover to be its class


@dataclass(frozen=True)
class Cells:
    """Cells of the pixel grid that a class covers.

    Args:
        embeddings: (m, D) unit.
        labels: (m,) the class that covers most of each.
        cover: (m,) the part that it covers.  A class whose cells are all covered more by others has the cell
            that it covers most.
    """

    embeddings: Tensor
    labels: Tensor
    cover: Tensor

    def keys(self, per_class: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The mean embeddings of each class: unit keys (n, D) and their classes (n,).

        Args:
            per_class: groups of cells of a class (spherical k-means), at most.
            rng: of the groups.
        """
        return self._joined((label, _groups(own, per_class, rng)) for label, own in self._by_class())

    def drawn_by_class(self, most: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Unit embeddings (n, D) and classes (n,) of at most ``most`` cells of each class."""
        return self._joined((label, _drawn(own, most, rng)) for label, own in self._by_class())

    def drawn(self, most: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Unit embeddings (n, D) and classes (n,) of at most ``most`` cells that a class covers by half."""
        chosen = _drawn((self.cover >= _INSIDE).nonzero().flatten(), most, rng)
        return self.embeddings[chosen], self.labels[chosen]

    def _by_class(self) -> Iterator[tuple[int, Tensor]]:
        """Each class with the embeddings of the cells that it covers by half.

        A class that covers no cell by half gives the cell that it covers most, so that thin objects have one.
        """
        for label in self.labels.unique().tolist():
            own, covered = self.embeddings[self.labels == label], self.cover[self.labels == label]
            inside = covered >= _INSIDE
            yield label, own[inside] if inside.any() else own[covered.argmax()][None]

    def _joined(self, found: Iterable[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
        listed = list(found)
        if not listed:
            return self.embeddings[:0], torch.tensor([], dtype=torch.int64)
        labels = [torch.full((len(rows),), label) for label, rows in listed]
        return torch.cat([rows for _, rows in listed]), torch.cat(labels)


def masked_cells(
    model: SegmentationModel, image: Tensor, mask: Tensor, ignore_index: int, rng: torch.Generator
) -> Cells:
    """The cells of an image with a mask; none if all pixels are ignored.

    Args:
        model: embeds the pixels, in evaluation mode.
        image: (3, H, W) uint8.
        mask: (H, W) class indices.
        ignore_index: of pixels without a class.
        rng: of the cells of a large window, of which 4,096 are kept.
    """
    device = next(model.parameters()).device
    found = list(_windows(model, image.to(device), mask.to(device), ignore_index, rng))
    if not found:
        return Cells(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    return Cells(*(torch.cat(parts).cpu() for parts in zip(*found, strict=True)))


def _windows(
    model: SegmentationModel, image: Tensor, mask: Tensor, ignore_index: int, rng: torch.Generator
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Embeddings, classes and covers of the cells of each window of the unmirrored views."""
    for view in model.encode_image(image).views:
        if view.mirrored:
            continue
        labels = F.interpolate(mask[None, None].double(), view.size, mode='nearest')[0, 0].long()
        windows = iter(view.windows)
        for part in view.features:
            for embeddings in model.pixel_embeddings(part):  # (D, h, w)
                window = next(windows)
                inside = labels[window.top : window.bottom, window.left : window.right]
                found = _covered(model, inside, (embeddings.shape[1], embeddings.shape[2]), ignore_index)
                if found is None:
                    continue
                classes, cover = found  # (c,), (c, h * w)
                cells = embeddings.flatten(1).mT  # (h * w, D)
                best, place = cover.max(0)
                chosen = (best > 0).nonzero().flatten()
                if len(chosen) > _KEPT:
                    chosen = chosen[torch.randperm(len(chosen), generator=rng)[:_KEPT].to(chosen.device)]
                yield cells[chosen], classes[place[chosen]], best[chosen]
                hidden = [row for row in range(len(classes)) if not (place[chosen] == row).any()]
                if hidden:  # too thin to cover most of a cell
                    share, cell = cover[hidden].max(1)
                    yield cells[cell], classes[hidden], share


def _covered(
    model: SegmentationModel, labels: Tensor, grid: tuple[int, int], ignore_index: int
) -> tuple[Tensor, Tensor] | None:
    """Classes (c,) of a window and the part of each cell that they cover (c, h * w); None without classes."""
    classes = labels.unique()
    classes = classes[classes != ignore_index]
    if not len(classes):
        return None
    height, width = model.embedding_extent((labels.shape[0], labels.shape[1]))
    padding = (0, width - labels.shape[1], 0, height - labels.shape[0])
    planes = F.pad((labels == classes[:, None, None]).float(), padding)
    return classes, F.adaptive_avg_pool2d(planes[None], grid)[0].flatten(1)


def _groups(cells: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Normalized means of groups of unit embeddings (m, D) -> (at most count, D), by spherical k-means."""
    if count == 1 or len(cells) <= count:
        return F.normalize(cells.mean(0, keepdim=True), dim=1) if count == 1 else cells
    centers = cells[torch.randperm(len(cells), generator=rng)[:count].to(cells.device)]
    for _ in range(_ROUNDS):
        own = (cells @ centers.mT).argmax(1)
        sums = torch.zeros_like(centers).index_add_(0, own, cells)
        centers = F.normalize(sums[own.bincount(minlength=len(centers)) > 0], dim=1)
    return centers


def _drawn(rows: Tensor, most: int, rng: torch.Generator) -> Tensor:
    """At most ``most`` rows, in random order."""
    return rows[torch.randperm(len(rows), generator=rng)[:most]]
