"""A folder of images and a folder of masks with the same names.

root/
  classes.txt         one class name a line: line n is mask value n, from 0
  images/NAME.jpg     or images/PART/NAME.jpg, such as images/training
  masks/NAME.png      the same below masks
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from clipdense.data.image_lists import NamedFiles, first_of
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import MAX_PIXELS
from clipdense.utils.wording import counted
from clipdense.vocab.class_names import read_class_names
from clipdense.vocab.vocabulary import Vocabulary

from .datasets import LabeledImages, stored_vocabulary

Part = Literal['all', 'train', 'val']


@DATASETS.register_module()
class SegmentationPairs(LabeledImages):
    """Images and masks in two folders, paired by their names.

    Args:
        root: the folder shown above.
        images, masks: the two folders, relative to ``root``.
        part: 'train' and 'val' divide the images: each ``held_out``-th one, in the order of their names, is
            for validation.
        held_out: see ``part``.
        mask_suffix: what names of masks have in addition, such as '_L' or '_mask'.
        vocabulary: the classes, or a file of them; by default ``classes.txt`` in ``root``.
        ignore_index, zero_is_unlabeled: see ``LabeledImages``.
        max_pixels: larger images raise an error.

    Raises:
        InputError: a folder is missing, images without a mask (the first ten are named), no images in this
            part, or no classes.
    """

    def __init__(
        self,
        root: str | Path,
        images: str = 'images',
        masks: str = 'masks',
        part: Part = 'all',
        held_out: int = 5,
        mask_suffix: str = '',
        vocabulary: Vocabulary | Sequence[str] | str | Path | None = None,
        ignore_index: int = 255,
        zero_is_unlabeled: bool = False,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        root = Path(root).expanduser()
        if part not in get_args(Part) or not held_out >= 2:
            raise InputError(
                f"part must be 'all', 'train' or 'val' and held_out at least 2, got {part!r} and {held_out!r}"
            )
        names = read_class_names(vocabulary) if vocabulary is not None else stored_vocabulary(root)
        if names is None:
            raise InputError(
                f'{root} has no classes.txt: write one, a class name a line; line n names mask value n, the '
                f'first line is {1 if zero_is_unlabeled else 0}'
            )
        files, labels = NamedFiles(root / images), NamedFiles(root / masks, {'.png', '.tif', '.tiff', '.bmp'})
        stems = files.stems()
        without = [stem for stem in stems if labels.find(f'{stem}{mask_suffix}') is None]
        if without or not stems:
            missing = f'{len(without)} of {len(stems)} images of {files.folder} have no mask in'
            found = (
                f'{missing} {labels.folder}: {first_of(without)}' if stems else f'no images in {files.folder}'
            )
            raise InputError(found + (labels.hint(without[0]) if without else ''))
        held = set(stems[held_out - 1 :: held_out]) or set(stems[-1:])
        kept = [one for one in stems if part == 'all' or (one in held) == (part == 'val')]
        if not kept:
            raise InputError(f'{root} has {counted(len(stems), "image")}, too few for a part for validation')
        pairs = [(files.find(stem), labels.find(f'{stem}{mask_suffix}')) for stem in kept]
        chosen = [(image, mask) for image, mask in pairs if image is not None and mask is not None]
        super().__init__(
            root,
            [image for image, _ in chosen],
            [mask for _, mask in chosen],
            names,
            None,
            ignore_index,
            zero_is_unlabeled,
            max_pixels,
        )
