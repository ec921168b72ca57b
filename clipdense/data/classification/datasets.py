"""Images with one label each.  S: side of an image, K: classes.

An image that cannot be read is counted and replaced by a black image with the label -1, which evaluations
skip.
"""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from random import Random

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from clipdense.data.batches import sample_rng, to_tensor
from clipdense.data.faults import FaultBudget
from clipdense.registry import DATASETS, TRANSFORMS, build
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.image_files import IMAGE_SUFFIXES
from clipdense.utils.image_io import read_image
from clipdense.utils.wording import counted

from .names import folder_names

_SHOWN = 10  # folders in a message
UNREADABLE = -1  # label of images that could not be read


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

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, index: int) -> tuple[Image.Image, int]:
        """One image, RGB, and its label.

        Raises:
            InputError: the image cannot be read.
        """
        raise NotImplementedError

    @property
    def labels(self) -> list[int]:
        """The label of each image; -1 for images whose label cannot be read."""
        raise NotImplementedError

    def key(self, index: int) -> str:
        """A name of an image that does not change with the place of the dataset or the order of its files."""
        return str(index)

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


class ListedImages(LabeledImages):
    """Image files of one folder with their labels.

    Args:
        root: the folder.
        images: paths relative to the folder, with labels.
        class_names, transform, seed, max_bad_fraction: as in ``LabeledImages``.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[tuple[str, int]],
        class_names: Sequence[str],
        transform: Callable | dict | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        super().__init__(class_names, transform, seed, max_bad_fraction)
        self.root, self.images = root, list(images)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> list[int]:
        """The label of each image."""
        return [label for _, label in self.images]

    def key(self, index: int) -> str:
        """The path within the folder, with ``/``, its accents in one form."""
        return unicodedata.normalize('NFC', PurePath(self.images[index][0]).as_posix())

    def read(self, index: int) -> tuple[Image.Image, int]:
        path, label = self.images[index]
        return read_image(self.root / path), label


@DATASETS.register_module()
class LabeledFolder(ListedImages):
    """A folder with a subfolder of images for each class, in alphabetical order (ImageNet's layout).

    Names come from ``class_names``, or from ``classes.txt`` in the folder: one name a line in the order of
    the folders, or ``FOLDER<tab>NAME`` in any order.  Otherwise the folder names are used, with spaces for
    underscores.

    Args:
        root: the folder.
        transform, seed, max_bad_fraction: as in ``LabeledImages``.
        class_names: names in the order of the folders, or a dict from folder to name.
        folders: the folders of the classes, for a part of a dataset that may lack some; by default all.

    Raises:
        InputError: no such folder, no images in it, a folder that is not in ``folders``, or names that do not
            fit its folders.
    """

    def __init__(
        self,
        root: str | Path,
        transform: Callable | dict | None = None,
        class_names: Sequence[str] | Mapping[str, str] | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
        folders: Sequence[str] | None = None,
    ) -> None:
        root = Path(root)
        if not root.is_dir():
            raise InputError(
                f'{root} is not a folder; pass a folder with a subfolder of images for each class'
            )
        there = class_folders(root)
        for folder in there:
            if folders is not None and folder not in folders:
                raise InputError(
                    f'{root} has the folder {folder!r}, which is not a class of the training images.'
                    f'{nearest(folder, folders)}'
                )
        self.folders = tuple(there if folders is None else folders)
        names = folder_names(root, list(self.folders), class_names)
        images = [
            (str(file.relative_to(root)), label)
            for label, folder in enumerate(self.folders)
            for file in sorted((root / folder).rglob('*'))
            if _is_shown(file) and file.suffix.lower() in IMAGE_SUFFIXES
        ]
        super().__init__(root, images, names, transform, seed, max_bad_fraction)
        if not self.images:
            raise InputError(
                f'no images in the subfolders of {root}; each class needs a subfolder with its images'
            )
        self._report_empty('subfolders' if folders is None else 'classes')
        self._report_nested()
        self._report_loose()

    def _report_nested(self) -> None:
        """Say that images are in folders within class folders, which may be the classes."""
        parts = [PurePath(path).parts for path, _ in self.images]
        inner = {one[:2] for one in parts if len(one) > 2}
        deep = sum(len(one) > 2 for one in parts)
        if len(self.folders) == 1 and len(inner) > 1 and deep == len(parts):
            warnings.warn(
                f'{self.root} has a single class, {self.folders[0]!r}, with its images in {len(inner)} '
                f'subfolders: if these are the classes, pass {self.root / self.folders[0]}'
            )
        elif deep:
            first = next(one for one in parts if len(one) > 2)
            warnings.warn(
                f'{deep} of {len(parts)} images of {self.root} are in folders within a class folder, such as '
                f'{"/".join(first)}: they belong to the class of the outer folder ({first[0]!r})'
            )

    def _report_loose(self) -> None:
        """Say that images are in no class folder."""
        loose = [
            one.name for one in self.root.iterdir() if _is_shown(one) and one.suffix.lower() in IMAGE_SUFFIXES
        ]
        if loose:
            warnings.warn(
                f'{counted(len(loose), "image")} directly in {self.root} left out, such as {min(loose)}: '
                'each class needs a subfolder'
            )

    def _report_empty(self, noun: str) -> None:
        filled = set(self.labels)
        empty = [folder for label, folder in enumerate(self.folders) if label not in filled]
        if empty:
            more = ', ...' if len(empty) > _SHOWN else ''
            warnings.warn(
                f'{len(empty)} of {len(self.folders)} {noun} of {self.root} have no images, and stay '
                f'classes: {", ".join(empty[:_SHOWN])}{more}'
            )


def class_folders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones are left out.

    Raises:
        InputError: the folder cannot be read.
    """
    try:
        return sorted(entry.name for entry in root.iterdir() if _is_shown(entry) and entry.is_dir())
    except OSError as error:
        raise InputError(f'the folder {root} cannot be read: {error.strerror or error}') from error


def _is_shown(path: Path) -> bool:
    return not path.name.startswith('.')
