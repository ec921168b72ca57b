"""Training, validation and test images of any labeled data.

In this order: parts that the data has (folders ``train``, ``val``, ``test``; a split file; torchvision's
splits); else images drawn from each class with a seed, which is said.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from clipdense.registry import DATASETS, build
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.wording import counted

from .datasets import LabeledFolder, LabeledImages, ListedImages, class_folders
from .names import read_folder_names
from .split_files import PARTS, SUFFIXES, read_split_file
from .torchvision_sets import TorchvisionDataset

ALL = 'all'  # in place of a part: the whole of data that has no parts
FRACTIONS = {'train': 0.5, 'val': 0.2, 'test': 0.3}  # CoOp's, for datasets without parts
HELD_OUT = {'train': 0.8, 'val': 0.2}  # CoOp's, for datasets without validation images
_FOLDERS = {  # names of folders of parts
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}


class ImageSubset(LabeledImages):
    """Some images of a dataset, and some of its classes.

    Args:
        dataset: labeled images.
        indices: of the images, which must be of these classes.
        classes: labels of the classes, which are numbered from 0 in this order; by default all.
        transform, seed, max_bad_fraction: as in ``LabeledImages``.
    """

    def __init__(
        self,
        dataset: LabeledImages,
        indices: Sequence[int],
        classes: Sequence[int] | None = None,
        transform: Callable | dict | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        kept = range(len(dataset.class_names)) if classes is None else classes
        super().__init__([dataset.class_names[label] for label in kept], transform, seed, max_bad_fraction)
        self.source, self.indices = dataset, list(indices)
        self._label = {label: number for number, label in enumerate(kept)}
        labels = dataset.labels
        self._labels = [self._label.get(labels[index], -1) for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> list[int]:
        """The label of each image."""
        return self._labels

    def key(self, index: int) -> str:
        """The key in the whole dataset."""
        return self.source.key(self.indices[index])

    def read(self, index: int) -> tuple[Image.Image, int]:
        image, label = self.source.read(self.indices[index])
        return image, self._label.get(label, -1)


def open_part(
    data: Any,
    part: str,
    seed: int = 0,
    class_names: Sequence[str] | Mapping[str, str] | None = None,
) -> LabeledImages:
    """The training, validation or test images of labeled data.

    Args:
        data: a folder of class folders, or of ``train``, ``val`` and ``test`` with such folders; a split file
            of CoOp; a dataset or its config; or a dict of datasets for ``train``, ``val`` and ``test``.
        part: 'train', 'val' or 'test'; or 'all' for a folder or dataset without parts.
        seed: of parts that are drawn.
        class_names: names instead of those of the data; for folders, in their order or by folder.

    Raises:
        InputError: no such data or part, no images, or parts with different classes.

    Warns:
        UserWarning: which parts are drawn, or used for another.
    """
    if part not in (*PARTS, ALL):
        known = (*PARTS, ALL)
        raise InputError(f'split must be one of {", ".join(known)}, got {part!r}.{nearest(str(part), known)}')
    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        if path.suffix.lower() in SUFFIXES and not path.is_dir():
            return _of_file(path, part, seed, class_names)
        return _of_folder(path, part, seed, class_names)
    if class_names is not None:
        raise InputError('class_names are for folders and split files; give them to the dataset itself')
    if isinstance(data, Mapping) and 'type' not in data:
        return _of_several(data, part, seed)
    if isinstance(data, Mapping) and data['type'] in (TorchvisionDataset, 'TorchvisionDataset'):
        return _of_torchvision(dict(data), part, seed)
    return _drawn(_checked(build(data, DATASETS)), part, seed, FRACTIONS, 'the dataset')


def has_parts(data: str | os.PathLike) -> bool:
    """Whether data has parts of its own: a split file, or a folder with ``train`` and others."""
    path = Path(data).expanduser()
    return bool(_part_folders(path)) if path.is_dir() else path.suffix.lower() in SUFFIXES


def stratified(
    labels: Sequence[int], keys: Sequence[str], fractions: Mapping[str, float], seed: int
) -> dict[str, list[int]]:
    """Draw parts within each class.

    Args:
        labels: of the images; those below 0 are in no part.
        keys: of the images; what is drawn depends on the seed and the keys of a class only.
        fractions: of the parts, which add up to 1.  Each part has an image of a class that has enough; the
            first part comes first.
        seed: of the draw.

    Returns:
        Indices of the images of each part, ascending.
    """
    parts: dict[str, list[int]] = {part: [] for part in fractions}
    for images in by_class(labels, keys, seed, 'split').values():
        for part, count in zip(fractions, _sizes(len(images), list(fractions.values())), strict=True):
            parts[part] += images[:count]
            images = images[count:]
    return {part: sorted(images) for part, images in parts.items()}


def by_class(labels: Sequence[int], keys: Sequence[str], seed: int, purpose: str) -> dict[int, list[int]]:
    """The images of each class in an order that depends on the seed, the purpose and their keys only."""
    found: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        if label >= 0:
            found.setdefault(label, []).append(index)

    def place(index: int) -> tuple[bytes, str]:
        key = keys[index]
        return hashlib.sha256(f'{seed}/{purpose}/{key}'.encode('utf-8', 'surrogateescape')).digest(), key

    return {label: sorted(images, key=place) for label, images in sorted(found.items())}


def _sizes(count: int, fractions: Sequence[float]) -> list[int]:
    """Images of each part: rounded, one for each part as far as they go, the largest first."""
    order = sorted(range(len(fractions)), key=lambda at: (at != 0, -fractions[at]))
    sizes = [max(1, round(count * fraction)) for fraction in fractions]
    for at in order[count:]:
        sizes[at] = 0
    sizes[0] = count - sum(sizes[1:])
    while sizes[0] < 1 < count:
        sizes[sizes.index(max(sizes[1:]), 1)] -= 1
        sizes[0] += 1
    return sizes


def _of_folder(
    root: Path, part: str, seed: int, class_names: Sequence[str] | Mapping[str, str] | None
) -> LabeledImages:
    parts = _part_folders(root)
    if parts and part == ALL:
        raise InputError(f'{root} has {" and ".join(parts)} images: use one of them instead of {ALL!r}')
    if not parts:
        return _drawn(LabeledFolder(root, class_names=class_names), part, seed, FRACTIONS, str(root))
    if class_names is None and (root / 'classes.txt').exists():
        class_names = read_folder_names(root / 'classes.txt')
    train = LabeledFolder(parts['train'], class_names=class_names)
    if part == 'test' and ('test' in parts or 'val' in parts):
        if 'test' not in parts:
            warnings.warn(f'{root} has no test folder: {parts["val"]} is used as test images', stacklevel=4)
        return _same_classes(parts.get('test', parts.get('val', root)), train)
    if 'test' in parts and 'val' in parts:
        return train if part == 'train' else _same_classes(parts['val'], train)
    own = HELD_OUT if len(parts) > 1 else FRACTIONS
    return _drawn(train, part, seed, own, str(parts['train']))


def _same_classes(root: Path, train: LabeledFolder) -> LabeledFolder:
    names = dict(zip(train.folders, train.class_names, strict=True))
    return LabeledFolder(root, class_names=names, folders=train.folders)


def _part_folders(root: Path) -> dict[str, Path]:
    """Folders of parts; none if the folders are classes, of which one may be called 'train'."""
    if not root.is_dir():
        return {}
    there = {folder.lower(): folder for folder in class_folders(root)}
    found: dict[str, Path] = {}
    for part, names in _FOLDERS.items():
        known = [there[name] for name in names if name in there]
        if len(known) > 1:
            raise InputError(f'{root} has the folders {" and ".join(known)} for {part} images; keep one')
        if known:
            found[part] = root / known[0]
    if 'train' not in found or not class_folders(found['train']):
        return {}
    others = sorted(set(there.values()) - {path.name for path in found.values()})
    if others:
        warnings.warn(
            f'{root} has folders of {" and ".join(found)} images; its other folders are not read: '
            f'{", ".join(others[:5])}',
            stacklevel=5,
        )
    return found


def _of_file(
    path: Path, part: str, seed: int, class_names: Sequence[str] | Mapping[str, str] | None
) -> LabeledImages:
    if isinstance(class_names, Mapping):
        raise InputError('class_names of a split file must be a list, in the order of its labels')
    file = read_split_file(path)
    if part == ALL:
        raise InputError(f'{path} has {" and ".join(file.parts)} images: use one of them instead of {ALL!r}')
    names = file.class_names if class_names is None else tuple(class_names)
    if len(names) != len(file.class_names):
        raise InputError(
            f'{path} has {counted(len(file.class_names), "class")}, but class_names has '
            f'{counted(len(names), "name")}'
        )
    if part == 'val' and not file.parts.get('val'):
        train = ListedImages(file.root, file.images('train'), names)
        return _drawn(train, part, seed, HELD_OUT, str(path))
    dataset = ListedImages(file.root, file.images(part), names)
    if part == 'train' and not file.parts.get('val'):
        return _drawn(dataset, part, seed, HELD_OUT, str(path))
    return dataset


def _of_several(data: Mapping[str, Any], part: str, seed: int) -> LabeledImages:
    unknown = sorted(set(data) - set(PARTS))
    if part == ALL:
        raise InputError(f'data has {" and ".join(data)} images: use one of them instead of {ALL!r}')
    if unknown or 'train' not in data:
        raise InputError(
            f'data must be a folder, a split file, a dataset, or a dict of train, val and test, '
            f'got {dict(data)!r:.80}'
        )
    if part == 'test' and 'test' not in data:
        raise InputError("data has no 'test' images: add them, or pass one dataset, of which they are drawn")
    train = _checked(build(data['train'], DATASETS))
    if part in data:
        dataset = train if part == 'train' else _checked(build(data[part], DATASETS))
        if dataset.class_names != train.class_names:
            raise InputError(
                f'the {part} images have other classes than the training images: '
                f'{_first_difference(dataset.class_names, train.class_names)}'
            )
        if part != 'train' or 'val' in data:
            return dataset
    return _drawn(train, part, seed, HELD_OUT, 'the training images')


def _first_difference(own: Sequence[str], other: Sequence[str]) -> str:
    for label, (mine, theirs) in enumerate(zip(own, other, strict=False)):
        if mine != theirs:
            return f'label {label} is {mine!r}, not {theirs!r}'
    return f'{len(own)} instead of {len(other)}'


def _of_torchvision(config: dict[str, Any], part: str, seed: int) -> LabeledImages:
    """Splits of torchvision, and validation images from the training images where it has none."""
    from torchvision import datasets

    name = config.get('name', 'CIFAR100')
    known = inspect.signature(getattr(datasets, name)).parameters if name in datasets.__all__ else {}
    if name in datasets.__all__ and not {'train', 'split'} & set(known):
        return _drawn(build(config, DATASETS), part, seed, FRACTIONS, name)
    if part == ALL:
        raise InputError(f'{name} has parts: use {" or ".join(PARTS)} instead of {ALL!r}')
    if part == 'test':
        return build({**config, 'train': False}, DATASETS)
    if 'split' in known and name in _WITH_VALIDATION:
        options = {**dict(config.get('options') or {}), 'split': part}
        return build({**config, 'train': True, 'options': options}, DATASETS)
    return _drawn(build({**config, 'train': True}, DATASETS), part, seed, HELD_OUT, name)


_WITH_VALIDATION = ('DTD', 'FGVCAircraft', 'Flowers102', 'PCAM', 'RenderedSST2', 'Country211')


def _drawn(
    dataset: LabeledImages, part: str, seed: int, fractions: Mapping[str, float], where: str
) -> LabeledImages:
    """A part of a dataset that is drawn from its classes, which is said; or all of it."""
    if part == ALL:
        return dataset
    shares = ', '.join(f'{round(100 * fraction)} % {name}' for name, fraction in fractions.items())
    warnings.warn(
        f'{where} has no {" and ".join(name for name in fractions if name != "train")} images of its own: '
        f'its images are split within each class, {shares} (split_seed={seed})',
        stacklevel=4,
    )
    keys = [dataset.key(index) for index in range(len(dataset))]
    indices = stratified(dataset.labels, keys, fractions, seed)[part]
    if not indices:
        raise InputError(
            f'{where} has too few images for {part} images: each class needs at least {len(fractions)}'
        )
    return ImageSubset(dataset, indices)


def _checked(dataset: Any) -> LabeledImages:
    if not isinstance(dataset, LabeledImages):
        raise InputError(
            f'data must be a folder, a split file or a labeled dataset, got {type(dataset).__name__}'
        )
    return dataset
