"""A few images of each class of a detection dataset.

Source: microsoft/GLIP data/datasets/coco.py ``few_shot``.
"""

from __future__ import annotations

import random
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.config import ConfigDict
from torch.utils.data import Dataset

from clipdense.registry import DATASETS, build
from clipdense.utils.errors import InputError
from clipdense.utils.wording import counted

_NAMED = 5


def draw_images(classes: Sequence[Iterable[Any]], shots: int, draw: int = 0) -> list[int]:
    """Indices of images that show each class in at least ``shots`` images, as far as there are so many.

    In a random order, an image is taken if one of its classes is in fewer than ``shots`` of the images that
    were taken before; all of its classes count.  Frequent classes therefore get more images.

    Args:
        classes: those of the objects of each image; images without objects are not taken.
        shots: images of each class.
        draw: of the order; 0 keeps the order of the images.

    Raises:
        InputError: shots or draw out of range.
    """
    for name, value, least in (('shots', shots, 1), ('draw', draw, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f'{name} must be a whole number, at least {least}, got {value!r}')
    order = [index for index, own in enumerate(classes) if set(own)]
    if draw:
        random.Random(draw).shuffle(order)
    taken: list[int] = []
    counts: Counter[Any] = Counter()
    for index in order:
        own = set(classes[index])
        if any(counts[one] < shots for one in own):
            taken.append(index)
            counts.update(own)
    return taken


@DATASETS.register_module()
class FewShotDetection(Dataset):
    """Some images of a detection dataset, see ``draw_images``; all objects in them are used.

    Args:
        dataset: with ``images`` and a ``vocabulary``, such as ``CocoDetection``, or its config.
        shots: images of each class; None for all images with objects.
        draw: of the images; published results of ODinW are means over 3, 30 and 300.
        copies: how often each image occurs in an epoch, each time with other random transforms; GLIP has 8,
            4, 2 and 1 for 1, 3, 5 and 10 shots.
        seed: of random transforms.

    Attributes:
        images: records of the images that were drawn.

    Raises:
        InputError: a number out of range, or no image with an object.

    Warns:
        UserWarning: classes with fewer images than shots.
    """

    def __init__(
        self, dataset: Any, shots: int | None, draw: int = 3, copies: int = 1, seed: int = 0
    ) -> None:
        if isinstance(copies, bool) or not isinstance(copies, int) or copies < 1:
            raise InputError(f'copies must be a whole number, at least 1, got {copies!r}')
        given = {'seed': seed, **dataset} if isinstance(dataset, dict | ConfigDict) else dataset
        self.dataset: Any = build(given, DATASETS)
        self.vocabulary = self.dataset.vocabulary
        if self.vocabulary is None:
            raise InputError('shots are of classes, which captions with boxes do not have')
        classes = [{item['label'] for item in one.objects} for one in self.dataset.images]
        order = sorted(range(len(classes)), key=lambda index: self.dataset.images[index].image_id)
        drawn = draw_images([classes[index] for index in order], len(order) if shots is None else shots, draw)
        self.indices, self.copies = [order[place] for place in drawn], copies
        if not self.indices:
            raise InputError('no image contains an object of the classes: nothing can be drawn')
        self.images = [self.dataset.images[index] for index in self.indices]
        self._tell(Counter(label for index in self.indices for label in classes[index]), shots or 1)

    @property
    def metainfo(self) -> dict[str, Any]:
        """The ``dataset_meta`` that MMEngine passes to metrics."""
        return {**self.dataset.metainfo}

    def set_epoch(self, epoch: int) -> None:
        """Select the random transforms of this epoch."""
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.indices) * self.copies

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample of the dataset."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        copy, place = divmod(index, len(self.indices))
        return self.dataset.sample(self.indices[place], copy)

    def _tell(self, counts: Counter[int], shots: int) -> None:
        names = self.vocabulary.class_names
        few = [name for label, name in enumerate(names) if counts[label] < shots]
        if few:
            shown = ', '.join(f'{name} ({counts[names.index(name)]})' for name in few[:_NAMED])
            more = ', ...' if len(few) > _NAMED else ''
            warnings.warn(
                f'{counted(len(few), "class")} with fewer than {counted(shots, "image")}: {shown}{more}',
                stacklevel=3,
            )
