"""Training data of segmenters: random crops of one size, and the removal of unseen classes.

(H, W): pixels of an image, S: side of a crop.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from clipdense.data.batches import sample_rng
from clipdense.registry import DATASETS, build
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.utils.wording import counted
from clipdense.vocab.names import normalize
from clipdense.vocab.vocabulary import Vocabulary

UnseenPixels = Literal['ignore', 'background', 'keep']


class _Wrapped(Dataset):
    """Base class of datasets that wrap a labeled dataset."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = build(dataset, DATASETS)
        self.vocabulary: Vocabulary = self.dataset.vocabulary
        self.ignore_index: int = getattr(self.dataset, 'ignore_index', 255)

    @property
    def metainfo(self) -> dict[str, Any]:
        """The ``dataset_meta`` that MMEngine passes to metrics."""
        return {'vocabulary': self.vocabulary, 'classes': self.vocabulary.class_names}

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        """Pass the epoch to the wrapped dataset."""
        if hasattr(self.dataset, 'set_epoch'):
            self.dataset.set_epoch(epoch)


@DATASETS.register_module()
class SegmentationCrops(_Wrapped):
    """Random crops of labeled images, randomly scaled and flipped.

    A crop depends on (seed, epoch, index) only.  Smaller images are padded to the right and below with
    black pixels, which are ignored.

    Args:
        dataset: items ``images`` (3, H, W) uint8 and ``samples`` with masks; or its config.
        size: S.
        long_side: of the image before scaling, in pixels; None keeps the image's own.
        scale: smallest and largest factor on that.
        flip: probability of a horizontal flip.
        seed: of the crops.

    Raises:
        InputError: a size, scale or flip out of range.

    Source: PyTorch-Encoding ``BaseDataset._sync_transform``, with which LSeg was trained.
    """

    def __init__(
        self,
        dataset: Any,
        size: int = 480,
        long_side: int | None = 520,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(dataset)
        if size < 1 or not 0 < scale[0] <= scale[1] or not 0 <= flip <= 1:
            raise InputError(
                f'crops need size >= 1, 0 < scale[0] <= scale[1], 0 <= flip <= 1; got {size}, {scale}, {flip}'
            )
        self.size, self.long_side, self.scale, self.flip, self.seed = size, long_side, scale, flip, seed
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # shared with running workers

    def set_epoch(self, epoch: int) -> None:
        """Select the crops of this epoch."""
        self._epoch.fill_(epoch)
        super().set_epoch(epoch)

    def __getitem__(self, index: int) -> dict[str, Tensor | SegmentationSample]:
        """``images`` (3, S, S) uint8 and ``samples``, whose mask is (S, S)."""
        item = self.dataset[index]
        image, sample = item['images'], item['samples']
        rng = sample_rng(self.seed, int(self._epoch), index)
        image, mask = self._resize(image, sample.mask, rng)
        image, mask = self._cut(image, mask, rng)
        if rng.random() < self.flip:
            image, mask = image.flip(-1), mask.flip(-1)
        crop = SegmentationSample(sample.image_path, (self.size, self.size), mask.contiguous())
        return {'images': image.contiguous(), 'samples': crop}

    def _resize(self, image: Tensor, mask: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        factor = rng.uniform(*self.scale) * (self.long_side or max(height, width)) / max(height, width)
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        if size == [height, width]:
            return image, mask
        resized = vision.resize(mask[None], size, InterpolationMode.NEAREST)[0]
        return vision.resize(image, size, InterpolationMode.BILINEAR, antialias=True), resized

    def _cut(self, image: Tensor, mask: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        height, width = image.shape[-2:]
        top, left = (rng.randint(0, max(0, side - self.size)) for side in (height, width))
        image = image[:, top : top + self.size, left : left + self.size]
        mask = mask[top : top + self.size, left : left + self.size]
        padding = (0, self.size - image.shape[-1], 0, self.size - image.shape[-2])
        return F.pad(image, padding), F.pad(mask, padding, value=self.ignore_index)


@DATASETS.register_module()
class ZeroShotSplit(_Wrapped):
    """Removes unseen classes from the vocabulary and relabels their pixels.

    Args:
        dataset: items ``samples`` with masks, and a ``vocabulary``; or its config.
        unseen: names of the classes that training must not see.
        seen: names of the other classes; all others by default.  Classes in neither list are ignored.
        pixels: of unseen classes: 'ignore' excludes them from the loss, 'background' labels them as the
            vocabulary's background.  'keep', for evaluation, keeps their labels and their names,
            which are marked as novel: ``MeanIoU`` then reports both groups and their harmonic mean.

    Raises:
        InputError: classes that do not exist or are in both lists, an unknown option, or no background.
    """

    def __init__(
        self,
        dataset: Any,
        unseen: Sequence[str],
        seen: Sequence[str] | None = None,
        pixels: UnseenPixels = 'ignore',
    ) -> None:
        super().__init__(dataset)
        vocabulary = self.vocabulary
        if pixels not in ('ignore', 'background', 'keep'):
            raise InputError(f"pixels must be 'ignore', 'background' or 'keep', got {pixels!r}")
        if pixels == 'background' and vocabulary.background is None:
            raise InputError("pixels='background' needs a vocabulary with a background class; use 'ignore'")
        hidden = [vocabulary.class_names[vocabulary.index(name)] for name in unseen]
        shown = (
            _rest(vocabulary, hidden)
            if seen is None
            else [vocabulary.class_names[vocabulary.index(n)] for n in seen]
        )
        both = sorted(set(hidden) & set(shown))
        if both:
            raise InputError(f'{counted(len(both), "class")} both seen and unseen: {", ".join(both[:10])}')
        if pixels != 'keep' and vocabulary.background in hidden:
            raise InputError(f'the background {vocabulary.background!r} cannot be unseen in training')
        offered = {normalize(name) for name in (*shown, *(hidden if pixels == 'keep' else ()))}
        if vocabulary.background is not None:
            offered.add(normalize(vocabulary.background))
        kept = vocabulary.subset([name for name in vocabulary.class_names if normalize(name) in offered])
        novel = frozenset(hidden) if pixels == 'keep' else frozenset()
        self.vocabulary = Vocabulary(kept.class_names, kept.synonyms, kept.background, novel)
        self.labels = self._table(vocabulary, hidden, pixels)

    def __getitem__(self, index: int) -> dict[str, Tensor | SegmentationSample]:
        """The item with its mask relabeled."""
        item = self.dataset[index]
        sample = item['samples']
        counted = sample.mask != self.ignore_index
        mask = torch.full_like(sample.mask, self.ignore_index)
        mask[counted] = self.labels[sample.mask[counted]]
        return {**item, 'samples': replace(sample, mask=mask)}

    def _table(self, vocabulary: Vocabulary, hidden: Iterable[str], pixels: UnseenPixels) -> Tensor:
        """(classes before,) -> label after."""
        place = {name: at for at, name in enumerate(self.vocabulary.class_names)}
        table = [place.get(name, self.ignore_index) for name in vocabulary.class_names]
        if pixels == 'background':
            background = place[str(vocabulary.background)]
            table = [
                background if n in set(hidden) else at
                for n, at in zip(vocabulary.class_names, table, strict=True)
            ]
        return torch.tensor(table)


def _rest(vocabulary: Vocabulary, hidden: Sequence[str]) -> list[str]:
    """All other classes except the background."""
    return [name for name in vocabulary.class_names if name not in hidden and name != vocabulary.background]
