"""Two segmentations of one image, side by side.  K: classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipdense.utils.drawing import count_indices, gallery, under_legend
from clipdense.utils.errors import InputError
from clipdense.utils.palette import class_palette

from .result_checks import check_numbers
from .results import Segmentation


@dataclass(frozen=True)
class Agreement:
    """How many pixels two segmentations give to each class; sums over images with ``+``.

    Args:
        class_names: K names.
        first, second: (K,) pixels of each class in the first and in the second segmentation.
        both: (K,) pixels that have the class in both.

    Raises:
        InputError: other shapes, counts that are negative or contradict each other.
    """

    class_names: tuple[str, ...]
    first: NDArray[np.integer]
    second: NDArray[np.integer]
    both: NDArray[np.integer]

    def __post_init__(self) -> None:
        check_numbers(first=self.first, second=self.second, both=self.both)
        expected = (len(self.class_names),)
        for name in ('first', 'second', 'both'):
            if getattr(self, name).shape != expected:
                raise InputError(f'{name} must have shape {expected}, got {getattr(self, name).shape}')
        if (self.both < 0).any() or (self.both > np.minimum(self.first, self.second)).any():
            raise InputError('both must be from 0 to the smaller of first and second')
        if self.first.sum() != self.second.sum():
            raise InputError(f'first has {self.first.sum()} pixels, second {self.second.sum()}')

    def __add__(self, other: Agreement) -> Agreement:
        """The agreement on both sets of images.

        Raises:
            InputError: other classes.
        """
        if other.class_names != self.class_names:
            raise InputError('agreements on different class names cannot be added')
        return Agreement(
            self.class_names, self.first + other.first, self.second + other.second, self.both + other.both
        )

    @property
    def total(self) -> float:
        """Fraction of the pixels that have the same class in both."""
        return float(self.both.sum() / max(1, int(self.first.sum())))

    def by_class(self) -> dict[str, float]:
        """IoU of each class between both: pixels in both / pixels in either; absent classes are left out."""
        either = self.first + self.second - self.both
        return {
            name: float(self.both[at] / either[at]) for at, name in enumerate(self.class_names) if either[at]
        }

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON: agreement in total and by class, with the fractions that each class covers."""
        pixels, shared = max(1, int(self.first.sum())), self.by_class()
        return {
            'agreement': round(self.total, 6),
            'classes': [
                {
                    'class': name,
                    'agreement': round(shared[name], 6),
                    'first': round(float(self.first[at] / pixels), 6),
                    'second': round(float(self.second[at] / pixels), 6),
                }
                for at, name in enumerate(self.class_names)
                if name in shared
            ],
        }


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two segmentations of one image with one vocabulary.

    Args:
        first, second: the segmentations.
        labels: what computed each, such as the names of the methods.

    Raises:
        InputError: segmentations of other sizes or class names, or not two labels.
    """

    first: Segmentation
    second: Segmentation
    labels: Sequence[str] = ('first', 'second')

    def __post_init__(self) -> None:
        one, other = self.first, self.second
        if one.mask.shape != other.mask.shape:
            raise InputError(
                f'the segmentations have the sizes {one.mask.shape} and {other.mask.shape} (height, width): '
                'compare those of one image'
            )
        names = one.vocabulary.class_names, other.vocabulary.class_names
        if names[0] != names[1]:
            raise InputError(
                f'the segmentations have different class names: {", ".join(names[0])} and '
                f'{", ".join(names[1])}'
            )
        if isinstance(self.labels, str) or len(self.labels) != 2:
            raise InputError(f'labels must be two texts, got {self.labels!r}')

    def __repr__(self) -> str:
        """``Comparison(maskclip and naclip: 83% of the pixels agree)``."""
        one, other = self.labels
        return f'Comparison({one} and {other}: {self.agreement.total:.0%} of the pixels agree)'

    @property
    def agreement(self) -> Agreement:
        """On how many pixels they agree."""
        one, other = self.first.mask, self.second.mask
        names = tuple(self.first.vocabulary.class_names)
        same = one[one == other]
        return Agreement(
            names,
            count_indices(one, len(names)),
            count_indices(other, len(names)),
            np.bincount(same, minlength=len(names)),
        )

    def draw(self, opacity: float = 0.6) -> Image.Image:
        """Both overlays side by side with their labels, above one legend of the classes that occur in either.

        Raises:
            InputError: a result has no image.
        """
        drawn = [one.draw(opacity=opacity, legend=False) for one in (self.first, self.second)]
        pairs = list(zip(drawn, self.labels, strict=True))
        sheet = gallery([pairs], tile=drawn[0].width)
        vocabulary = self.first.vocabulary
        background = vocabulary.marking_background().background
        index = None if background is None else vocabulary.index(background)
        colors = class_palette(len(vocabulary), index)
        found = [name for name in self.agreement.by_class() if name != background]
        return under_legend(sheet, found, colors[[vocabulary.index(name) for name in found]])
