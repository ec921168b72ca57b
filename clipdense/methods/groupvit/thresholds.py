"""Background thresholds of groups: one or one per class from labels, or automatic without labels.

G: groups, K: classes with the background, (H, W): pixels of a window.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from clipdense.tasks.views import EncodedImage
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track

from .segmenter import GroupVitSegmenter

_BINS = 200
_SHARED = ''  # name of the threshold of all classes that have none of their own


class GroupStatistics:
    """Pixel counts by class and score of their group, and by label.

    Args:
        num_classes: K.
        background: index of the background.

    Attributes:
        groups: (3, bins + 1, K) int64: pixels by score and best class of their group: of any label, of that
            class, and of the background.  The best group of a window, which never becomes background, is in
            the last bin.
        labels: (K,) int64: number of pixels of each label.
    """

    def __init__(self, num_classes: int, background: int) -> None:
        self.background = background
        self.groups = torch.zeros(3, _BINS + 1, num_classes, dtype=torch.int64)
        self.labels = torch.zeros(num_classes, dtype=torch.int64)

    def add(self, scores: Tensor, owner: Tensor, labels: Tensor) -> None:
        """Add a window.

        Args:
            scores: (G, K) scores of each group; the column of the background is ignored.
            owner: (H, W) group of each pixel.
            labels: (H, W) class indices; other values are ignored.
        """
        scores = scores.clone()
        scores[:, self.background] = -1
        best, class_ids = scores.max(dim=1)  # (G,)
        bins = (best * _BINS).long().clamp(0, _BINS - 1)
        bins[best == best.max()] = _BINS
        counted = (labels >= 0) & (labels < len(self.labels))
        cells = owner[counted].long() * len(self.labels) + labels[counted]
        pixels = torch.bincount(cells, minlength=scores.numel()).view(scores.shape)  # (G, K label)
        own = pixels.gather(1, class_ids[:, None])[:, 0]
        seen = torch.stack([pixels.sum(1), own, pixels[:, self.background]])  # (3, G)
        self.groups.flatten(1).index_add_(1, bins * len(self.labels) + class_ids, seen)
        self.labels += pixels.sum(0)

    def best_threshold(self) -> float:
        """The shared threshold with the highest mIoU; the lowest if there are several."""
        return float(self._mean_iou(self._above()).argmax()) / _BINS

    def best_thresholds(self, rounds: int = 3) -> Tensor:
        """(K,) thresholds by class, by coordinate ascent of the mIoU from the shared threshold.

        Args:
            rounds: maximum number of passes over the classes.
        """
        above = self._above()
        classes = torch.arange(len(self.labels))
        places = torch.full_like(classes, round(self.best_threshold() * _BINS))
        for _ in range(rounds):
            before = places.clone()
            for index in classes[above[0, 0] > 0].tolist():
                tried = above[:, places, classes][:, None].repeat(1, _BINS + 1, 1)  # (3, bins + 1, K)
                tried[..., index] = above[..., index]
                scores = self._mean_iou(tried)
                if scores.max() > scores[places[index]] + 1e-9:
                    places[index] = scores.argmax()
            if torch.equal(places, before):
                break
        return places.double() / _BINS

    def _above(self) -> Tensor:
        """(3, bins + 1, K): ``groups``, summed over all scores of at least this bin."""
        above = self.groups.flip(1).cumsum(1).flip(1)
        above[..., self.background] = 0
        return above

    def _mean_iou(self, kept: Tensor) -> Tensor:
        """(3, P, K) ``groups`` that are not background -> (P,) mIoU over the classes that occur in labels."""
        found, hit, background = kept[0].clone(), kept[1].clone(), self.background
        found[:, background] = self.labels.sum() - kept[0].sum(1)
        hit[:, background] = self.labels[background] - kept[2].sum(1)
        union = found + self.labels - hit  # (P, K)
        return (hit.double() / union.clamp(min=1))[:, self.labels > 0].mean(1)


def learn_thresholds(
    model: GroupVitSegmenter,
    dataset: Any,
    by_class: bool = True,
    limit: int | None = None,
    ignore_index: int = 255,
) -> dict[str, float]:
    """Thresholds from a labeled dataset, which may have base classes only.

    Pixels labeled with novel classes of the vocabulary are not used; novel classes get the shared threshold
    of the other classes.

    Args:
        model: the segmenter, with a vocabulary that has a background.
        dataset: items ``{'images', 'samples'}`` with masks of class indices in the model's vocabulary.
        by_class: whether to return a threshold for each class that occurs, or a shared one.
        limit: maximum number of images.
        ignore_index: label of pixels that are ignored.

    Returns:
        Thresholds by class name, '' for all others: ``GroupVitSegmenter(background_threshold=...)``.

    Raises:
        InputError: a vocabulary without background.
    """
    vocabulary, background = model.vocabulary, model.background_index
    if vocabulary is None or background is None:
        raise InputError('thresholds require a vocabulary with a background class: add a background')
    statistics = GroupStatistics(len(vocabulary), background)
    novel = torch.tensor([vocabulary.index(name) for name in vocabulary.novel], dtype=torch.int64)
    count = len(dataset) if limit is None else min(limit, len(dataset))
    with evaluating(model):
        for index in track(range(count), 'learning thresholds'):
            item = dataset[index]
            labels = item['samples'].mask.clone()
            labels[torch.isin(labels, novel) | (labels == ignore_index)] = -1
            image = _encode(model, item['images'])
            for scores, owner, window in group_windows(model, image):
                view = resize_labels(labels, window[0])
                top, left, bottom, right = window[1]
                statistics.add(scores.cpu(), owner.cpu(), view[top:bottom, left:right])
    shared = statistics.best_threshold()
    if not by_class:
        return {_SHARED: shared}
    seen = statistics.groups[1].sum(0) > 0
    values = statistics.best_thresholds().tolist()
    own = {
        name: values[index]
        for index, name in enumerate(vocabulary.class_names)
        if index != background and seen[index] and name not in vocabulary.novel
    }
    return own | {_SHARED: shared}


def automatic_threshold(model: GroupVitSegmenter, images: Iterable[Tensor]) -> float:
    """A threshold without labels, by Otsu's method on the best scores of the groups.

    It assumes that the images show both classes of the vocabulary and other things.

    Args:
        model: the segmenter, with a vocabulary.
        images: (3, H, W) uint8 each, of any size; iterated once.

    Raises:
        InputError: no images.

    Source: Otsu, A Threshold Selection Method from Gray-Level Histograms, 1979.
    """
    histogram = torch.zeros(_BINS, dtype=torch.float64)
    background = model.background_index
    with evaluating(model):
        for image in track(images, 'scoring images'):
            for scores, owner, _ in group_windows(model, _encode(model, image)):
                if background is not None:
                    scores = scores.clone()
                    scores[:, background] = -1
                pixels = torch.bincount(owner.flatten().long().cpu(), minlength=len(scores)).double()
                bins = (scores.amax(dim=1) * _BINS).long().clamp(0, _BINS - 1).cpu()
                histogram.index_add_(0, bins, pixels)
    if not histogram.any():
        raise InputError('an automatic threshold requires images, got none')
    return otsu(histogram) / _BINS


def otsu(histogram: Tensor) -> float:
    """The split of a histogram (n,) into two classes with the largest between-class variance.

    The middle one of equally good splits, so that a wide gap is split at its center.
    """
    weights = histogram.double() / histogram.sum()
    values = torch.arange(len(weights), dtype=torch.float64)
    below, mean_below = weights.cumsum(0)[:-1], (weights * values).cumsum(0)[:-1]
    total = (weights * values).sum()
    between = (total * below - mean_below).square() / (below * (1 - below)).clamp(min=1e-12)
    best = (between >= between.max() * (1 - 1e-9)).nonzero().double()
    return float(best.mean()) + 1  # the first bin of the upper class


def group_windows(
    model: GroupVitSegmenter, encoded: EncodedImage
) -> list[tuple[Tensor, Tensor, tuple[tuple[int, int], tuple[int, int, int, int]]]]:
    """For each window: group scores (G, K), group of each pixel (H, W), size of the view, position."""
    found = []
    for view in encoded.views:
        windows = iter(view.windows)
        for image, groups, owner in view.features:
            scores = model.class_scores(image, groups, model.queries)  # (B, G, K)
            own = owner.flip(-1) if view.mirrored else owner
            for index in range(len(own)):
                top, left, bottom, right = next(windows)
                if view.mirrored:
                    left, right = view.size[1] - right, view.size[1] - left
                found.append((scores[index], own[index], (view.size, (top, left, bottom, right))))
    return found


def _encode(model: GroupVitSegmenter, image: Tensor) -> EncodedImage:
    device = next(model.parameters()).device
    return model.encode_image(model.data_preprocessor.normalize(image.to(device)))


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W) labels, resized by nearest neighbor."""
    rows = torch.arange(size[0]) * labels.shape[0] // size[0]
    columns = torch.arange(size[1]) * labels.shape[1] // size[1]
    return labels[rows][:, columns]
