"""The classes of the synthetic scenes and their split: color x texture x shape, as in "red striped star"."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

SPLITS = ('base', 'novel', 'unseen')


@dataclass(frozen=True)
class Difficulty:
    """Parameters of the images of one difficulty.

    Lengths are fractions of the image's side, so that the scenes do not depend on the image size.

    Args:
        colors, textures, shapes: the factors whose product are the classes.
        image_size: side of the image in pixels, unless overridden.
        objects: smallest and largest number of objects in an image.
        radius: smallest and largest radius of a single object; several objects are drawn a little smaller.
        overlap: how far two objects may cover each other, as a fraction of the sum of their radii.
        clutter: smallest and largest number of gray shapes without a class.
    """

    colors: tuple[str, ...]
    textures: tuple[str, ...]
    shapes: tuple[str, ...]
    image_size: int
    objects: tuple[int, int]
    radius: tuple[float, float]
    overlap: float
    clutter: tuple[int, int]


_COLORS = ('red', 'green', 'blue', 'yellow', 'purple', 'orange')
_TEXTURES = ('solid', 'striped', 'dotted', 'checked', 'ringed')
_SHAPES = ('circle', 'square', 'triangle', 'star', 'cross', 'ring')

DIFFICULTIES = {
    'easy': Difficulty(_COLORS[:4], _TEXTURES[:2], _SHAPES[:4], 32, (1, 2), (0.24, 0.34), 0.0, (0, 0)),
    'standard': Difficulty(_COLORS[:4], _TEXTURES[:4], _SHAPES[:4], 32, (1, 3), (0.20, 0.32), 0.2, (0, 3)),
    'hard': Difficulty(_COLORS, _TEXTURES, _SHAPES, 64, (2, 5), (0.14, 0.28), 0.4, (3, 9)),
}


def split_classes(difficulty: Difficulty) -> dict[str, tuple[str, ...]]:
    """Class names of each split, by a rule that does not depend on any seed.

    Unseen are the combinations whose three positions have one parity.  On 'standard', each pair of values
    that an unseen class has ("red striped", "red star", "striped star") belongs to two unseen classes and to
    at least one base class: every pair has been seen before, but two factors never identify an unseen class
    among the unseen names.  All three must be recognized.
    """
    names: dict[str, list[str]] = {split: [] for split in SPLITS}
    factors = (difficulty.colors, difficulty.textures, difficulty.shapes)
    for positions in itertools.product(*(range(len(values)) for values in factors)):
        name = ' '.join(values[at] for values, at in zip(factors, positions, strict=True))
        names[_split_of(*positions)].append(name)
    return {split: tuple(names[split]) for split in SPLITS}


def _split_of(color: int, texture: int, shape: int) -> str:
    if color % 2 == texture % 2 == shape % 2:
        return 'unseen'
    halves_even = (color // 2 + texture // 2 + shape // 2) % 2 == 0
    return 'novel' if halves_even and (color % 2 == texture % 2 or color // 2 == 0) else 'base'
