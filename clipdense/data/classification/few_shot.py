"""Few labeled images of each class, and halves of the classes.  K: classes, S: side of an image."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.utils.wording import counted
from clipdense.vocab.names import normalize, places
from clipdense.vocab.vocabulary import Vocabulary

from .datasets import LabeledImages
from .splits import ImageSubset, by_class, open_part

HALVES = ('all', 'base', 'new')
_SHOWN = 10  # classes in a message


@DATASETS.register_module()
class FewShotImages(ImageSubset):
    """Few images of each class of labeled data, or all of them, for some of its classes.

    Draws depend on the seed and the paths of a class's images only, not on the file system, other classes or
    the place of the data; those of 2 shots contain those of 1, and so on.  Images that cannot be read are not
    drawn.

    Args:
        data: a folder, a split file of CoOp, a dataset or its config; see ``splits.open_part``.
        split: 'train', 'val' or 'test'; 'all' for data without parts.
        shots: images of each class; None for all.
        classes: 'all', 'base' (the first half by label, ceil(K / 2)), 'new' (the others), or class names.
        seed: of the shots, and of random transforms.
        transform: image and generator -> (3, S, S) uint8, or its config.
        class_names: names instead of those of folders or a split file.
        split_seed: of splits that are drawn, where the data has none.
        strict: refuse a class with fewer images than shots; else all its images are used, which is said.
        max_bad_fraction: fraction of unreadable images above which a run stops.

    Raises:
        InputError: no such data, split or classes; a class without images, or with ``strict`` too few.
    """

    def __init__(
        self,
        data: Any,
        split: str = 'train',
        shots: int | None = None,
        classes: str | Sequence[str] = 'all',
        seed: int = 0,
        transform: Callable | dict | None = None,
        class_names: Sequence[str] | Mapping[str, str] | None = None,
        split_seed: int = 0,
        strict: bool = False,
        max_bad_fraction: float = 0.01,
    ) -> None:
        source = open_part(data, split, split_seed, class_names)
        kept = class_subset(source.class_names, classes)
        labels = source.labels
        if shots is None:
            chosen = set(kept)
            indices = [index for index, label in enumerate(labels) if label in chosen]
        else:
            keys = [source.key(index) for index in range(len(source))]
            indices = draw_shots(
                labels,
                shots,
                seed,
                keys,
                source.class_names,
                kept,
                strict,
                lambda index: is_readable(source, index),
            )
        if not indices:
            raise InputError(f'the {split} images have none of the classes {classes!r}')
        super().__init__(source, indices, kept, transform, seed, max_bad_fraction)

    @property
    def vocabulary(self) -> Vocabulary:
        """The class names as a vocabulary."""
        return Vocabulary(self.class_names)


def draw_shots(
    labels: Sequence[int],
    shots: int,
    seed: int = 0,
    keys: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    strict: bool = False,
    usable: Callable[[int], bool] | None = None,
) -> list[int]:
    """Draw images of each class.

    Args:
        labels: of the images; those below 0 are not drawn.
        shots: images of each class.
        seed: of the draw.
        keys: names of the images, on which the draw depends; by default their numbers.
        class_names: K names, which all need images; by default the classes that occur.
        classes: labels of the classes that are drawn; by default all.
        strict: refuse a class with fewer images.
        usable: whether an image can be used; others are replaced by the next of the class.

    Returns:
        Indices, class by class, in the order of the draw.

    Raises:
        InputError: invalid shots or seed; a class without images, or with ``strict`` too few.

    Warns:
        UserWarning: classes with fewer images than shots, or images that cannot be used.
    """
    for name, value, least in (('shots', shots, 1), ('seed', seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f'{name} must be a whole number of at least {least}, got {value!r}')
    keys = list(map(str, range(len(labels)))) if keys is None else keys
    found = by_class(labels, keys, seed, 'shots')
    names = {label: repr(label) for label in found} if class_names is None else dict(enumerate(class_names))
    drawn: list[int] = []
    few: list[str] = []
    unusable: list[int] = []
    for label in sorted(names) if classes is None else classes:
        images: list[int] = []
        for index in found.get(label, ()):
            if len(images) == shots:
                break
            (images if usable is None or usable(index) else unusable).append(index)
        if not images:
            raise InputError(
                f'the class {names[label]!r} has no images to draw; add some or leave the class out'
            )
        if len(images) < shots:
            few.append(f'{names[label]} ({len(images)})')
        drawn += images
    _report(few, [keys[index] for index in unusable], shots, strict)
    return drawn


def class_subset(class_names: Sequence[str], classes: str | Sequence[str]) -> list[int]:
    """Labels of some classes.

    Args:
        class_names: K names, by label.
        classes: 'all', 'base' (the first ceil(K / 2)), 'new' (the others), or names.

    Raises:
        InputError: an unknown word or class, a class twice, or no class at all.

    Source: CoCoOp ``subsample_classes`` (KaiyangZhou/CoOp ``datasets/oxford_pets.py``).
    """
    count = len(class_names)
    half = -(-count // 2)
    if isinstance(classes, str):
        if classes not in HALVES:
            raise InputError(
                f"classes must be 'all', 'base', 'new' or a list of class names, got {classes!r}; for one "
                f'class write [{classes!r}]'
            )
        if classes == 'new' and half == count:
            raise InputError(f'{count} class has no new half; base and new need at least 2 classes')
        ends = {'all': (0, count), 'base': (0, half), 'new': (half, count)}
        return list(range(*ends[classes]))
    known = places(class_names)
    unknown = [name for name in classes if not isinstance(name, str) or normalize(name) not in known]
    if unknown:
        raise InputError(f'the data has no class {unknown[0]!r}: it has {", ".join(class_names[:_SHOWN])}')
    labels = [known[normalize(name)] for name in classes]
    if not labels or len(set(labels)) < len(labels):
        raise InputError(f'classes must be one or more different class names, got {list(classes)!r:.100}')
    return labels


def _report(few: Sequence[str], unusable: Sequence[str], shots: int, strict: bool) -> None:
    if few:
        listed = ', '.join(few[:_SHOWN]) + (', ...' if len(few) > _SHOWN else '')
        if strict:
            raise InputError(f'{len(few)} classes have fewer than {shots} images: {listed}')
        warnings.warn(
            f'{len(few)} classes have fewer than {shots} images, of which all are used: {listed}',
            stacklevel=4,
        )
    if unusable:
        listed = ', '.join(unusable[:_SHOWN]) + (', ...' if len(unusable) > _SHOWN else '')
        warnings.warn(
            f'{counted(len(unusable), "image")} cannot be read, and others are drawn: {listed}', stacklevel=4
        )


def is_readable(dataset: LabeledImages, index: int) -> bool:
    """Whether an image can be read."""
    try:
        dataset.read(index)
    except InputError:
        return False
    return True
