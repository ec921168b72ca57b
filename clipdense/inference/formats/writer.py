"""What the writers of all formats have in common."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from PIL import Image

from clipdense.inference.results import write_image
from clipdense.utils.files import atomic_write
from clipdense.vocab.vocabulary import Vocabulary

from .objects import LabeledImage

_COPIED = {'JPEG': '.jpg', 'PNG': '.png', 'BMP': '.bmp', 'WEBP': '.webp'}
_PLAIN_MODES = ('RGB', 'L')  # others are read in another way by every program
_ORIENTATION = 0x0112  # EXIF tag


class Writer(ABC):
    """Writes one data set.

    Args:
        folder: of the data set.
        vocabulary: the classes, the background among them if there is one.

    Attributes:
        names: the classes without the background.
        numbers: number among ``names`` by label.
    """

    summary: ClassVar[str]
    needs_masks: ClassVar[bool] = False

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        self.folder, self.vocabulary = folder, vocabulary
        self.names = [name for name in vocabulary.class_names if name != vocabulary.background]
        place = {name: number for number, name in enumerate(self.names)}
        self.numbers = {
            label: place[name] for label, name in enumerate(vocabulary.class_names) if name in place
        }

    @abstractmethod
    def add(self, image: LabeledImage) -> None:
        """Write an image."""

    @abstractmethod
    def finish(self) -> list[Path]:
        """Write what describes the whole data set; returns these files."""

    def copy_image(self, image: LabeledImage, folder: str) -> str:
        """Copy an image into a subfolder of the data set; returns its name there.

        Files are copied as they are if every program sees the same pixels in them.  Others (turned by EXIF,
        transparent, CMYK, 16 bits, several frames, rare formats) are written as PNG, as clipdense reads them.
        """
        suffix = _suffix_if_plain(image.source)
        target = self.folder / folder / f'{image.name}{suffix or ".png"}'
        if suffix is None:
            write_image(target, image.image)
        else:
            with atomic_write(target) as file, open(image.source, 'rb') as source:
                shutil.copyfileobj(source, file)
        return target.name


def _suffix_if_plain(path: Path) -> str | None:
    """The ending of a file that can be copied; None if it must be written anew."""
    with Image.open(path) as image:
        turned = image.getexif().get(_ORIENTATION, 1) not in (0, 1)
        plain = image.mode in _PLAIN_MODES and not turned and getattr(image, 'n_frames', 1) == 1
        return _COPIED.get(image.format or '') if plain and 'transparency' not in image.info else None
