"""Classification datasets of torchvision that are on disk."""

from __future__ import annotations

import inspect
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.image_io import read_image

from .datasets import UNREADABLE, LabeledImages
from .names import readable

_TRAIN_SPLITS = ('train', 'trainval', 'train-standard')
_TEST_SPLITS = ('test', 'val', 'valid')
_LABELS = ('targets', '_labels', 'labels', 'y')  # attributes of torchvision's datasets


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
        names = [readable(str(name)) for name in own or ()] if class_names is None else class_names
        if own and len(names) != len(own):
            raise InputError(f'{name} has {len(own)} classes, but class_names has {len(names)} names')
        super().__init__(names, transform, seed)

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def labels(self) -> list[int]:
        """The label of each image: an attribute of torchvision's dataset, else from reading all images."""
        for name in _LABELS:
            found = getattr(self.dataset, name, None)
            if found is not None and len(found) == len(self) and all(map(_is_integer, found)):
                return [int(label) for label in found]
        pairs = getattr(self.dataset, '_samples', getattr(self.dataset, 'samples', ()))
        if len(pairs) == len(self) and all(_is_integer(pair[1]) for pair in pairs):
            return [int(label) for _, label in pairs]
        return [self._label(index) for index in range(len(self))]

    def _label(self, index: int) -> int:
        try:
            return self.read(index)[1]
        except InputError:
            return UNREADABLE

    def read(self, index: int) -> tuple[Image.Image, int]:
        try:
            image, label = self.dataset[index]
        except (OSError, SyntaxError) as error:  # raised by Pillow for broken files
            raise InputError(f'image {index} of {type(self.dataset).__name__}: {error}') from error
        return read_image(image), _single_label(label, f'image {index} of {type(self.dataset).__name__}')


def _is_integer(value: Any) -> bool:
    return hasattr(value, '__index__') and not (isinstance(value, Tensor) and value.is_floating_point())


def _single_label(label: Any, where: str) -> int:
    try:
        return operator.index(label)
    except TypeError as error:
        raise InputError(f'{where} has the label {label!r:.60}, not a single integer') from error


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
