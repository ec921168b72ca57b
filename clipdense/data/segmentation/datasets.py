"""Segmentation datasets in the layout of PASCAL VOC.  (H, W): pixels of an image, K: classes.

root/
  classes.txt                          one class name a line: line n is mask value n, from 0
  JPEGImages/NAME.jpg                  .jpeg, .png and other endings as well
  SegmentationClass/NAME.png           palette or gray PNG whose values are class indices
  ImageSets/Segmentation/SPLIT.txt     one NAME a line
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from clipdense.data.batches import to_tensor
from clipdense.data.image_lists import NamedFiles, read_split, without_flags
from clipdense.registry import DATASETS
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import digest, sha256
from clipdense.utils.image_io import MAX_PIXELS, read_image, read_mask
from clipdense.utils.progress import track
from clipdense.utils.wording import counted
from clipdense.vocab.class_files import skipped_lines
from clipdense.vocab.class_names import read_class_names
from clipdense.vocab.names import normalize, places
from clipdense.vocab.vocabulary import Vocabulary

_UNKNOWN = -1
_PROBED = 8  # masks that are read when a dataset is opened


class LabeledImages(Dataset):
    """Images in their original size with a class index for each pixel.

    Args:
        root: folder of the dataset, for messages.
        images, masks: files, one mask for each image.
        stored: the classes of the mask values.
        vocabulary: the classes to return; ``stored`` by default.  Classes are matched by name, and
            pixels of other classes are ignored; a vocabulary with other names and the same number of classes
            renames the classes in order.
        ignore_index: value of unlabeled pixels, in the files and in the returned masks.
        zero_is_unlabeled: in the files, 0 is unlabeled too and 1 is class 0 ("reduce zero label").
        max_pixels: larger images raise an error.

    Raises:
        InputError: a vocabulary that does not fit, or an ``ignore_index`` that is a class.
    """

    def __init__(
        self,
        root: Path,
        images: Sequence[Path],
        masks: Sequence[Path],
        stored: Vocabulary,
        vocabulary: Vocabulary | None = None,
        ignore_index: int = 255,
        zero_is_unlabeled: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.root, self.images, self.masks = root, list(images), list(masks)
        self.ignore_index, self.max_pixels = ignore_index, max_pixels
        self.vocabulary = vocabulary or stored
        if 0 <= ignore_index < len(self.vocabulary):
            name = self.vocabulary.class_names[ignore_index]
            raise InputError(
                f'ignore_index {ignore_index} is the index of a class ({name!r}); use another value'
            )
        self._first = int(zero_is_unlabeled)  # value of the first class
        self._labels = _label_table(stored, self.vocabulary, ignore_index, self._first)
        self._warn_of_two_values()

    @property
    def metainfo(self) -> dict[str, Any]:
        """The ``dataset_meta`` that MMEngine passes to metrics."""
        return {'vocabulary': self.vocabulary, 'classes': self.vocabulary.class_names}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor | SegmentationSample]:
        """``images`` (3, H, W) uint8 and ``samples``, whose mask is (H, W) int64.

        Raises:
            InputError: a broken image or mask, a mask of another size, or a label that is not a class.
        """
        image, mask = self._read(index)
        size = (image.height, image.width)
        sample = SegmentationSample(str(self.images[index]), size, torch.from_numpy(mask))
        return {'images': to_tensor(image), 'samples': sample}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every image's name and size in bytes, and every mask's contents."""
        parts = [str(len(self))]
        for image, mask in zip(self.images, self.masks, strict=True):
            parts += [image.name, str(image.stat().st_size), sha256(mask)]
        return digest(*parts)

    def check(self) -> CheckReport:
        """Read all files once; report errors and the number of pixels of each class."""
        report = CheckReport(dict.fromkeys(self.vocabulary.class_names, 0))
        for index in track(range(len(self)), f'checking {self.root.name}'):
            try:
                mask = self._read(index)[1]
            except InputError as error:
                report.faults.append(str(error))
                continue
            values, counts = np.unique(mask, return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                if value == self.ignore_index:
                    report.ignored += count
                else:
                    report.pixels[self.vocabulary.class_names[value]] += count
            report.images += 1
        return report

    def _read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        image, mask = read_image(self.images[index], self.max_pixels), self._read_mask(index)
        if mask.shape != (image.height, image.width):
            raise InputError(
                f'mask {self.masks[index]} is {mask.shape[1]} x {mask.shape[0]}, but its image '
                f'{self.images[index].name} {image.width} x {image.height} pixels'
            )
        return image, mask

    def _read_mask(self, index: int) -> np.ndarray:
        stored = read_mask(self.masks[index], self.max_pixels)
        if stored.dtype == np.uint8:
            mask = self._labels[stored]
        else:
            inside = (stored >= 0) & (stored < len(self._labels))
            mask = np.where(inside, self._labels[np.where(inside, stored, 0)], _UNKNOWN)
        if (mask == _UNKNOWN).any():
            raise InputError(self._explain(stored, index))
        return mask

    def _warn_of_two_values(self) -> None:
        """Say it if some masks, read here, have only the values 0 and 255, and 255 is ignored."""
        values: set[int] = set()
        step = max(1, len(self) // _PROBED)
        for index in range(0, len(self), step)[:_PROBED]:
            try:
                values |= set(np.unique(read_mask(self.masks[index], self.max_pixels)).tolist())
            except InputError:  # raised again when the mask is needed
                continue
        if values == {0, self.ignore_index} and len(self._labels) > 1 and self.ignore_index == 255:
            zero = 'unlabeled too' if self._first else f'the class {self._name_of_zero()!r}'
            warnings.warn(
                f'the masks in {self.masks[0].parent} (up to {_PROBED} were read) have only the values 0 and '
                f'255: 0 is {zero}, and 255 is ignored. If 255 marks objects, write 1 or another class index',
                stacklevel=4,
            )

    def _name_of_zero(self) -> str:
        label = int(self._labels[0])
        return 'ignored' if label == self.ignore_index else self.vocabulary.class_names[label]

    def _explain(self, stored: np.ndarray, index: int) -> str:
        known = np.flatnonzero(self._labels != _UNKNOWN).tolist()
        values, counts = np.unique(stored, return_counts=True)
        pairs = sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda pair: pair[0] in known)
        histogram = ', '.join(f'{value}: {count}' for value, count in pairs[:16])
        highest = max(value for value in known if value != self.ignore_index)
        ignored = (
            f'{self.ignore_index} is ignored' if not self._first else f'0 and {self.ignore_index} are ignored'
        )
        return (
            f'{self.masks[index]} has labels that are not classes: classes are {self._first} to {highest}, '
            f'{ignored}, and the pixel counts by label are {histogram}'
        )


@DATASETS.register_module()
class VOCSegmentation(LabeledImages):
    """A dataset in the layout of PASCAL VOC.

    Args:
        root: the folder shown above.
        split: name of a list in ``ImageSets/Segmentation``.
        vocabulary: the classes to return, or a file of them, see ``LabeledImages``; by default
            those of the folder's ``vocabulary.json`` (as ``Vocabulary`` saves it) or ``classes.txt``, where a
            class called "background" is the background.
        ignore_index: value of unlabeled pixels, in the files and in the returned masks.
        max_pixels: larger images raise an error.
        mask_folder: subfolder of the masks.

    Raises:
        InputError: no such folder or split, missing images or masks (the first ten are named), or a
            vocabulary that does not fit.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = 'val',
        vocabulary: Vocabulary | Sequence[str] | str | Path | None = None,
        ignore_index: int = 255,
        max_pixels: int = MAX_PIXELS,
        mask_folder: str = 'SegmentationClass',
    ) -> None:
        root = Path(root)
        self.split = split
        if not root.is_dir():
            raise InputError(f'the dataset folder {root} does not exist')
        lists = 'ImageSets/Segmentation'
        files, listed = NamedFiles(root / 'JPEGImages'), f'named in {lists}/{split}.txt'
        names = without_flags(read_split(root, lists, split), files, root / lists / f'{split}.txt')
        images = files.find_all(names, listed)
        self.names = [files.name_of(image) for image in images]
        masks = NamedFiles(root / mask_folder, {'.png'}).find_all(self.names, f'with a mask, {listed},')
        stored = stored_vocabulary(root)
        chosen = stored if vocabulary is None else read_class_names(vocabulary)
        if chosen is None:
            raise InputError(
                f'{root} has no classes.txt; write one (a class name a line), or pass a vocabulary'
            )
        super().__init__(root, images, masks, stored or chosen, chosen, ignore_index, max_pixels=max_pixels)


@dataclass
class CheckReport:
    """Result of ``LabeledImages.check``."""

    pixels: dict[str, int]  # of each class
    images: int = 0  # without problems
    ignored: int = 0  # pixels
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = max(sum(self.pixels.values()) + self.ignored, 1)
        shares = [f'  {name}: {count / total:.2%}' for name, count in self.pixels.items()]
        faults = [f'  {fault}' for fault in self.faults]
        head = f'{self.images} images without problems, {len(self.faults)} with problems'
        shares.append(f'  (ignored): {self.ignored / total:.2%}')
        return '\n'.join([head, *faults, 'share of pixels:', *shares])


def stored_vocabulary(root: Path) -> Vocabulary | None:
    """The dataset's own classes, in the order of its mask values."""
    files = [root / name for name in ('vocabulary.json', 'classes.txt') if (root / name).is_file()]
    found = [Vocabulary.from_file(file) for file in files]
    skipped = skipped_lines(files[-1]) if files and files[-1].suffix == '.txt' else []
    if skipped:
        warnings.warn(
            f'{files[-1]}: line {skipped[0]} is blank or a comment and has no mask value; names are counted '
            f'without it, so that {found[-1].class_names[-1]!r} is the value {len(found[-1]) - 1}',
            stacklevel=2,
        )
    if len({tuple(map(normalize, one.class_names)) for one in found}) > 1:
        raise InputError(
            f'{files[0]} and {files[1].name} list different classes: correct or remove one of them'
        )
    return found[0] if found else None


def _label_table(stored: Vocabulary, chosen: Vocabulary, ignore_index: int, first: int) -> np.ndarray:
    """(256 or more,) int64: class index of each mask value, ``_UNKNOWN`` for values without a class.

    ``first`` is the value of the first class; those below are unlabeled.
    """
    table = np.full(max(256, first + len(stored), ignore_index + 1), _UNKNOWN, np.int64)
    place = places(chosen.class_names)
    unknown = [name for name in chosen.class_names if name not in stored and name != chosen.background]
    if unknown and len(stored) != len(chosen):
        hint = nearest(unknown[0], stored.class_names)
        raise InputError(
            f'{counted(len(unknown), "class name")} not in the dataset ({", ".join(unknown[:10])}), '
            f'which has {len(stored)} classes, not {len(chosen)}, so they cannot rename its classes in '
            f'order.{hint}'
        )
    if unknown:
        _check_renaming(stored, chosen, place)
    if stored.background is not None and chosen.background is not None:
        place[normalize(stored.background)] = chosen.index(chosen.background)
    table[:first] = ignore_index
    for index, name in enumerate(stored.class_names):
        table[first + index] = index if unknown else place.get(normalize(name), ignore_index)
    if ignore_index >= 0:
        table[ignore_index] = ignore_index
    return table


def _check_renaming(stored: Vocabulary, chosen: Vocabulary, place: Mapping[str, int]) -> None:
    """Refuse to rename classes in order where names that both have say another order."""
    for index, name in enumerate(stored.class_names):
        at = place.get(normalize(name), index)
        if at != index:
            raise InputError(
                f'class {name!r} is number {index} of the dataset but number {at} of the vocabulary, which '
                'also has names that the dataset lacks: list the names in the order of the dataset, or only '
                'names that it has'
            )
    if not any(normalize(name) in place for name in stored.class_names):
        first = f'{stored.class_names[0]!r} as {chosen.class_names[0]!r}'
        warnings.warn(f'no class name is in the dataset: its classes are renamed in order, {first} and so on')
