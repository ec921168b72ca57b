"""Pixel labels in PASCAL VOC's layout.  (H, W): pixels of an image, K: classes.

root/
  classes.txt                          one class a line: line n names mask value n (line 0 comes first)
  JPEGImages/NAME.jpg                  .jpeg, .png and other endings as well
  SegmentationClass/NAME.png           palette or gray PNG whose values are class indices
  ImageSets/Segmentation/SPLIT.txt     one NAME a line
"""

from __future__ import annotations

from collections.abc import Sequence
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
from clipdense.registry import DATASETS
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import digest, sha256
from clipdense.utils.image_files import IMAGE_SUFFIXES
from clipdense.utils.image_io import MAX_PIXELS, read_image, read_mask
from clipdense.utils.progress import track
from clipdense.vocab.vocabulary import Vocabulary

_UNKNOWN = -1


class LabeledImages(Dataset):
    """Images of their original size with class indices for their pixels, from a list of each.

    Args:
        root: folder that the dataset is named after in messages.
        images, masks: files, one mask an image.
        stored: the classes that the values in the masks stand for.
        vocabulary: the classes that are asked for; ``stored`` by default.  Classes are matched by name, and
            pixels of other classes are ignored; a vocabulary with other names but as many classes renames
            them in order.
        ignore_index: value of unlabeled pixels, in the files and in the masks that come out.
        zero_is_unlabeled: 0 in the files is unlabeled too, and class 0 is 1 there ("reduce zero label").
        max_pixels: larger images are refused.

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
            raise InputError(f'ignore_index {ignore_index} is a class ({name!r})')
        self._first = int(zero_is_unlabeled)  # value of the first class
        self._labels = _label_table(stored, self.vocabulary, ignore_index, self._first)

    @property
    def metainfo(self) -> dict[str, Any]:
        """What MMEngine hands to metrics as ``dataset_meta``."""
        return {'vocabulary': self.vocabulary, 'classes': self.vocabulary.class_names}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor | SegmentationSample]:
        """``images`` (3, H, W) uint8 and ``samples``, whose mask is (H, W) int64.

        Raises:
            InputError: a broken image or mask, a mask of another size, or a label that is no class.
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
        """Read everything once, and say what is wrong and how much of each class there is."""
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
                f'{self.masks[index]} is {mask.shape[1]} x {mask.shape[0]}, its image '
                f'{self.images[index].name} {image.width} x {image.height}: they must be equal'
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
            f'{self.masks[index]} has labels that are no class: classes are {self._first} to {highest}, '
            f'{ignored}, and its pixels by label are {histogram}'
        )


@DATASETS.register_module()
class VOCSegmentation(LabeledImages):
    """A folder in PASCAL VOC's layout.

    Args:
        root: the folder above.
        split: name of a list in ``ImageSets/Segmentation``.
        vocabulary: the classes that are asked for, or a file of them, see ``LabeledImages``; without one,
            those of the folder's ``vocabulary.json`` (as ``Vocabulary`` saves it) or ``classes.txt``, where a
            class called "background" is the background.
        ignore_index: value of unlabeled pixels, in the files and in the masks that come out.
        max_pixels: larger images are refused.
        mask_folder: where the masks lie.

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
            raise InputError(f'{root}: no such folder')
        self.names = read_list(root, 'ImageSets/Segmentation', split)
        listed = f'named in ImageSets/Segmentation/{split}.txt'
        images = _find(root / 'JPEGImages', self.names, IMAGE_SUFFIXES, listed)
        masks = _find(root / mask_folder, self.names, {'.png'}, listed)
        stored = _stored_vocabulary(root)
        chosen = stored if vocabulary is None else _vocabulary(vocabulary)
        if chosen is None:
            raise InputError(f'{root} has no classes.txt: write one, or give a vocabulary')
        super().__init__(root, images, masks, stored or chosen, chosen, ignore_index, max_pixels=max_pixels)


@dataclass
class CheckReport:
    """What ``LabeledImages.check`` found."""

    pixels: dict[str, int]  # of each class
    images: int = 0  # without faults
    ignored: int = 0  # pixels
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        total = max(sum(self.pixels.values()) + self.ignored, 1)
        shares = [f'  {name}: {count / total:.2%}' for name, count in self.pixels.items()]
        faults = [f'  {fault}' for fault in self.faults]
        head = f'{self.images} images in order, {len(self.faults)} with faults'
        shares.append(f'  (ignored): {self.ignored / total:.2%}')
        return '\n'.join([head, *faults, 'share of pixels:', *shares])


def read_list(root: Path, lists: str, split: str) -> list[str]:
    """The names in ``root/lists/split.txt``.

    Raises:
        InputError: no such list, or an empty one.
    """
    folder = root / lists
    path = folder / f'{split}.txt'
    if not path.is_file():
        known = sorted(file.stem for file in folder.glob('*.txt'))
        there = f'there are {", ".join(known)}.{nearest(split, known)}' if known else f'{folder} has no lists'
        raise InputError(f'{root} has no split {split!r}: {there}')
    names = [line.strip() for line in path.read_text('utf-8-sig').splitlines() if line.strip()]
    if not names:
        raise InputError(f'{path} names no images')
    return names


def _find(folder: Path, names: Sequence[str], suffixes: set[str] | frozenset[str], listed: str) -> list[Path]:
    """The file of each name, from one look into the folder."""
    if not folder.is_dir():
        raise InputError(f'{folder}: no such folder')
    files = {file.stem: file for file in sorted(folder.iterdir()) if file.suffix.lower() in suffixes}
    missing = [name for name in names if name not in files]
    if missing:
        first = ', '.join(missing[:10]) + (', ...' if len(missing) > 10 else '')
        raise InputError(f'{len(missing)} of {len(names)} images {listed} are not in {folder}: {first}')
    return [files[name] for name in names]


def _stored_vocabulary(root: Path) -> Vocabulary | None:
    """The folder's own classes, in the order of its mask values."""
    for name in ('vocabulary.json', 'classes.txt'):
        if (root / name).is_file():
            return _vocabulary(root / name)
    return None


def _vocabulary(source: Vocabulary | Sequence[str] | str | Path) -> Vocabulary:
    if isinstance(source, Vocabulary):
        return source
    if isinstance(source, (str, Path)):
        vocabulary = Vocabulary.from_file(source)
    else:
        vocabulary = Vocabulary(tuple(source))
    return vocabulary.marking_background()


def _label_table(stored: Vocabulary, chosen: Vocabulary, ignore_index: int, first: int) -> np.ndarray:
    """(256 or more,) int64: the class index of each value that a file may hold, ``_UNKNOWN`` for others.

    ``first`` is the value of the first class; those below are unlabeled.
    """
    table = np.full(max(256, first + len(stored), ignore_index + 1), _UNKNOWN, np.int64)
    spelling = {name.casefold(): index for index, name in enumerate(chosen.class_names)}
    known = {name.casefold() for name in stored.class_names}
    strangers = [
        name for name in chosen.class_names if name.casefold() not in known and name != chosen.background
    ]
    if strangers and len(stored) != len(chosen):
        hint = nearest(strangers[0], stored.class_names)
        raise InputError(
            f'{len(strangers)} classes are not in the folder ({", ".join(strangers[:10])}), and it has '
            f'{len(stored)} classes, not {len(chosen)}, so they cannot be new names for its classes.{hint}'
        )
    if stored.background is not None and chosen.background is not None:
        spelling[stored.background.casefold()] = chosen.index(chosen.background)
    table[:first] = ignore_index
    for index, name in enumerate(stored.class_names):
        table[first + index] = index if strangers else spelling.get(name.casefold(), ignore_index)
    if ignore_index >= 0:
        table[ignore_index] = ignore_index
    return table
