"""Images with one label each.  S: side of an image, K: classes.

An image that cannot be read is counted and replaced by a black image with the label -1, which evaluations
skip.
"""

from __future__ import annotations

import inspect
import logging
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from mmengine.logging import print_log
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from clipdense.data.batches import sample_rng, to_tensor
from clipdense.data.faults import FaultBudget
from clipdense.data.image_lists import numbered_lines
from clipdense.registry import DATASETS, TRANSFORMS, build
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.image_files import IMAGE_SUFFIXES
from clipdense.utils.image_io import read_image
from clipdense.vocab.names import check_name, first_repeated, normalize, places

_SHOWN = 10  # folders in a message
UNREADABLE = -1  # label of images that could not be read

# Attributes of torchvision's datasets that contain class names.
_TRAIN_SPLITS = ('train', 'trainval', 'train-standard')
_TEST_SPLITS = ('test', 'val', 'valid')


class LabeledImages(Dataset):
    """Base class of labeled datasets.

    Args:
        class_names: K names.
        transform: image and generator -> (3, S, S) uint8.  None returns unchanged images; evaluations
            then crop them as the model expects.
        seed: of random transforms.
        max_bad_fraction: fraction of unreadable images above which the run stops.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        transform: Callable | dict | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        self.class_names = tuple(class_names)
        self.transform = build(transform, TRANSFORMS)
        self.seed = seed
        self.faults = FaultBudget('images', max_bad_fraction)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # shared with persistent workers

    def read(self, index: int) -> tuple[Image.Image, int]:
        """One image, RGB, and its label.

        Raises:
            InputError: the image cannot be read.
        """
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        """``images`` (3, S, S) uint8 and ``labels``, an index into ``class_names`` or -1."""
        self.faults.saw()
        try:
            image, label = self.read(index)
        except (InputError, MemoryError, RecursionError) as error:
            self.faults.lose('image', str(error) or f'image {index}: {type(error).__name__}')
            image, label = Image.new('RGB', (32, 32)), UNREADABLE
        rng = sample_rng(self.seed, int(self._epoch), index)
        return {'images': self._to_tensor(image, rng), 'labels': label}

    def set_epoch(self, epoch: int) -> None:
        """Select the crops of this epoch."""
        self._epoch.fill_(epoch)
        self.faults.reset()

    def _to_tensor(self, image: Image.Image, rng: Random) -> Tensor:
        return to_tensor(image) if self.transform is None else self.transform(image, rng)


@DATASETS.register_module()
class LabeledFolder(LabeledImages):
    """A folder with a subfolder of images for each class, in alphabetical order (ImageNet's layout).

    Names come from ``class_names``, or from ``classes.txt`` in the folder: one name a line in the order of
    the folders, or ``FOLDER<tab>NAME`` in any order.  Otherwise the folder names are used, with spaces for
    underscores.

    Args:
        root: the folder.
        transform, seed, max_bad_fraction: as in ``LabeledImages``.
        class_names: names in the order of the folders, or a dict from folder to name.

    Raises:
        InputError: no such folder, no images in it, or names that do not fit its folders.
    """

    def __init__(
        self,
        root: str | Path,
        transform: Callable | dict | None = None,
        class_names: Sequence[str] | Mapping[str, str] | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise InputError(
                f'{root} is not a folder; pass a folder with a subfolder of images for each class'
            )
        folders = sorted(entry.name for entry in root.iterdir() if _is_shown(entry) and entry.is_dir())
        self.root, self.folders = root, tuple(folders)
        super().__init__(_names(root, folders, class_names), transform, seed, max_bad_fraction)
        self.images = [
            (str(file.relative_to(root)), label)
            for label, folder in enumerate(folders)
            for file in sorted((root / folder).rglob('*'))
            if _is_shown(file) and file.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not self.images:
            raise InputError(
                f'no images in the subfolders of {root}; each class needs a subfolder with its images'
            )
        filled = {label for _, label in self.images}
        empty = [folder for label, folder in enumerate(folders) if label not in filled]
        if empty:
            more = ', ...' if len(empty) > _SHOWN else ''
            print_log(
                f'{len(empty)} of {len(folders)} subfolders of {root} have no images, and stay classes: '
                f'{", ".join(empty[:_SHOWN])}{more}',
                logger='current',
                level=logging.WARNING,
            )

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.images[index]
        return read_image(self.root / path), label


@DATASETS.register_module()
class TorchvisionDataset(LabeledImages):
    """Any classification dataset of torchvision that is on disk; nothing is downloaded.

    Args:
        name: a class of ``torchvision.datasets`` such as 'CIFAR100', 'Food101' or 'OxfordIIITPet'.
        root: the ``root`` of torchvision's dataset.
        train: the training split instead of the test split.
        transform, seed: as in ``LabeledImages``.
        class_names: K names; by default the dataset's own, with spaces for underscores.
        options: more arguments of the class, such as ``{'split': 'trainval'}``.

    Raises:
        InputError: an unknown name, missing or damaged files, or a dataset without class names.
    """

    def __init__(
        self,
        name: str = 'CIFAR100',
        root: str | Path = 'data',
        train: bool = False,
        transform: Callable | dict | None = None,
        class_names: Sequence[str] | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.dataset = _open_torchvision(name, Path(root), train, dict(options or {}))
        own = getattr(self.dataset, 'classes', None)
        if class_names is None and not own:
            raise InputError(f'torchvision has no class names for {name}; pass class_names')
        names = [_readable(str(name)) for name in own or ()] if class_names is None else class_names
        if own and len(names) != len(own):
            raise InputError(f'{name} has {len(own)} classes, but class_names has {len(names)} names')
        super().__init__(names, transform, seed)

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> tuple[Image.Image, int]:
        try:
            image, label = self.dataset[index]
        except (OSError, SyntaxError) as error:  # raised by Pillow for broken files
            raise InputError(f'image {index} of {type(self.dataset).__name__}: {error}') from error
        return read_image(image), _single_label(label, f'image {index} of {type(self.dataset).__name__}')


def _single_label(label: Any, where: str) -> int:
    try:
        return operator.index(label)
    except TypeError as error:
        raise InputError(f'{where} has the label {label!r:.60}, not a single integer') from error


def _names(root: Path, folders: list[str], given: Sequence[str] | Mapping[str, str] | None) -> list[str]:
    """A name for each folder."""
    where = 'class_names'
    if given is None and (root / 'classes.txt').exists():
        where, given = str(root / 'classes.txt'), _read_names(root / 'classes.txt')
    readable = [_readable(folder) for folder in folders]
    if given is None:
        names = readable
    elif isinstance(given, Mapping):
        by_form = {normalize(folder): name for folder, name in given.items()}
        for folder in folders:
            if folder not in given and normalize(folder) not in by_form:
                raise InputError(f'{where} has no name for the folder {folder!r}.{nearest(folder, given)}')
        names = [given[one] if one in given else by_form[normalize(one)] for one in folders]
    elif len(given) != len(folders):
        raise InputError(f'{where} has {len(given)} names, but {root} has {len(folders)} subfolders')
    else:
        names = list(given)
    names = [check_name(name, f'class name of {where}') for name in names]
    check_order(readable, names if given is not None and not isinstance(given, Mapping) else [], where)
    repeated = first_repeated(names)
    if repeated:
        raise InputError(f'two subfolders of {root} have the same class name: {", ".join(repeated)}')
    return names


def check_order(own: Sequence[str], given: Sequence[str], where: str) -> None:
    """Check that class names given for labels do not name the classes of a dataset in another order.

    Args:
        own: names of the dataset, by label.
        given: names to be used instead, by label.
        where: what gives them, for the message.

    Raises:
        InputError: a name of the dataset is given for another label.
    """
    place = places(given)
    for label, name in enumerate(own):
        other = place.get(normalize(name), label)
        if other != label:
            raise InputError(
                f'{where} has another order than the dataset: label {label} is {name!r}, '
                f'which is number {other} of the names given'
            )


def _read_names(path: Path) -> list[str] | dict[str, str]:
    """Lines of ``classes.txt``: names, or folders with names."""
    lines = numbered_lines(path)
    if not any('\t' in line for _, line in lines):
        return [line for _, line in lines]
    names: dict[str, str] = {}
    for number, line in lines:
        folder, _, name = (part.strip() for part in line.partition('\t'))
        if not name:
            raise InputError(
                f'{path}, line {number}: {line!r} must be FOLDER, a tab and NAME, as other lines are'
            )
        if names.setdefault(folder, name) != name:
            raise InputError(
                f'{path} has two names for the folder {folder!r}: {names[folder]!r} and {name!r}'
            )
    return names


def _readable(name: str) -> str:
    return name.replace('_', ' ').strip()


def _is_shown(path: Path) -> bool:
    return not path.name.startswith('.')


def _open_torchvision(name: str, root: Path, train: bool, options: dict[str, Any]) -> Any:
    """The dataset, opened without downloading."""
    from torchvision import datasets

    if name not in datasets.__all__:
        raise InputError(f'torchvision has no dataset {name!r}.{nearest(name, datasets.__all__)}')
    dataset_class = getattr(datasets, name)
    known = inspect.signature(dataset_class).parameters
    splits: Sequence[str] = ()
    if 'train' in known:
        options.setdefault('train', train)
    elif 'split' in known and 'split' not in options:
        splits = _TRAIN_SPLITS if train else _TEST_SPLITS
    for split in splits or (None,):
        given = options if split is None else {**options, 'split': split}
        try:
            return dataset_class(root, **given)
        except ValueError as error:  # raised by torchvision for an unknown split
            if split is None or split == splits[-1]:
                raise InputError(f'{name}: {error}') from error
        except TypeError as error:
            raise InputError(f'invalid options for {name}: {error}') from error
        except (RuntimeError, OSError) as error:
            raise InputError(_missing(dataset_class, root, error)) from error
    raise AssertionError('unreachable')


def _missing(dataset_class: Any, root: Path, error: Exception) -> str:
    """A message with the missing files and their folder, as far as torchvision states them."""
    folder = root / getattr(dataset_class, 'base_folder', '')
    listed = [*getattr(dataset_class, 'train_list', ()), *getattr(dataset_class, 'test_list', ())]
    files = [entry[0] for entry in listed]
    if files and isinstance(getattr(dataset_class, 'meta', None), dict):
        files.append(dataset_class.meta['filename'])
    absent = [name for name in files if not os.path.isfile(folder / name)]
    if absent:
        what = f'{", ".join(absent)} missing in {folder}'
    elif files:
        what = f'one of {", ".join(files)} in {folder} is damaged'
    else:
        what = f'{root}: {str(error).splitlines()[0]}'
    return f'{dataset_class.__name__} is incomplete: {what}. Put the files there; nothing is downloaded'
