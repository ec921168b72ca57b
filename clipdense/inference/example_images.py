"""Class embeddings of classes that are given by example images.

n: examples of a class, R: embeddings of the example images, D: joint space, Q: queries, (H, W): pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.utils.files import regular_file, sha256
from clipdense.utils.image_io import read_image, read_mask
from clipdense.vocab.examples import Example
from clipdense.vocab.vocabulary import Vocabulary

Contents = tuple[tuple[str, tuple[tuple[Example, tuple[str, ...]], ...]], ...]

_LEAST = 0.05  # of the mean distance of embeddings of images from their mean


class ExampleEmbedding(NamedTuple):
    """What a predictor computes of an example."""

    query: Tensor  # (D,) of the image or of its masked region
    others: Tensor  # (R, D) unit, of the image and its parts


Embed = Callable[[Image.Image, np.ndarray | None, bool], ExampleEmbedding]


def contents(vocabulary: Vocabulary) -> Contents:
    """The examples of each class with the digests of their files.

    Raises:
        InputError: a file is missing or unreadable; the class is named.
    """
    return tuple(
        (name, tuple((one, tuple(_sha256(path, name) for path in one if path is not None)) for one in own))
        for name, own in vocabulary.examples.items()
    )


def named_part(vocabulary: Vocabulary) -> Vocabulary | None:
    """The classes that are given by names; None without any."""
    names = [name for name in vocabulary.class_names if name not in vocabulary.examples]
    return vocabulary.subset(names) if names else None


def with_examples(vocabulary: Vocabulary, named: ClassEmbeddings | None, embed: Embed) -> ClassEmbeddings:
    """The embeddings of a vocabulary of which some classes, or all, are given by examples.

    Args:
        vocabulary: the classes.
        named: embeddings of ``named_part(vocabulary)``.
        embed: embeds an example, see ``Predictor._embed_example``.

    Raises:
        InputError: an example that cannot be read, a mask of another size, or without any pixel of the class.

    Warns:
        UserWarning: some classes are given by names.
    """
    rows, others, alone = [], [], len(vocabulary.examples) == 1
    for name, own in vocabulary.examples.items():
        found = [_embedded(one, name, embed, alone) for one in own]
        rows.append(F.normalize(torch.stack([F.normalize(one.query, dim=0) for one in found]).mean(0), dim=0))
        others += [one.others for one in found]
    shown = torch.stack(rows).float()
    if named is not None:
        warnings.warn(
            f'{len(vocabulary.examples)} of {len(vocabulary)} classes are given by example images, the '
            'others by names: their scores are only roughly comparable, which costs accuracy; give all '
            'classes in the same way where you can',
            stacklevel=2,
        )
        shown = comparable(shown, named.queries, torch.cat(others).float())
    return _joined(vocabulary, shown, named)


def comparable(shown: Tensor, names: Tensor, others: Tensor) -> Tensor:
    """Move queries of examples to where those of names are.

    Cosines of two images are far above those of an image and a text.  Therefore the mean of the example
    images is replaced by the mean of the names, and the distance from it gets the length that it has for
    names.  docs/research/example_images.md compares this with other corrections.

    Args:
        shown: (n, D) unit queries of examples.
        names: (Q, D) unit queries of names.
        others: (R, D) unit embeddings of the example images.

    Returns:
        (n, D), unit.

    Raises:
        InputError: examples that are the average of their images.
    """
    center, names_center = others.mean(0), names.to(others).mean(0)
    distances = shown - center
    own = (shown - F.normalize(center, dim=0)).norm(dim=1)
    if len(others) < 2 or (own < _LEAST * (others - center).norm(dim=1).mean()).any():
        raise InputError(
            'examples that are the average of their images cannot be compared with class names: give masks '
            'of what shows the class, examples of several classes, or all classes by examples'
        )
    length = (1 - names_center.square().sum()).clamp(min=0).sqrt()  # root mean square of the names' distance
    return F.normalize(names_center + length * F.normalize(distances, dim=1), dim=1)


def _joined(vocabulary: Vocabulary, shown: Tensor, named: ClassEmbeddings | None) -> ClassEmbeddings:
    """Queries of examples (n, D) and of names, in class order."""
    own = iter(shown)
    queries, owners, position = [], [], 0
    for index, name in enumerate(vocabulary.class_names):
        if name in vocabulary.examples or named is None:
            part = next(own)[None]
        else:
            part = named.queries[named.query_class == position].to(shown)
            position += 1
        queries.append(part)
        owners += [index] * len(part)
    return ClassEmbeddings(
        torch.cat(queries), torch.tensor(owners, device=shown.device), len(vocabulary), None
    )


def _embedded(example: Example, name: str, embed: Embed, alone: bool) -> ExampleEmbedding:
    try:
        image = read_image(example.image)
        mask = None if example.mask is None else _read_mask(example, image)
    except InputError as error:
        raise InputError(f'class {name!r}: {error}') from error
    found = embed(image, mask, alone)
    if not (found.query.isfinite().all() and found.query.any()):
        raise InputError(f'class {name!r}: the embedding of {example.image} is zero, NaN or infinite')
    return found


def _read_mask(example: Example, image: Image.Image) -> np.ndarray:
    """(H, W) bool."""
    assert example.mask is not None
    mask = read_mask(example.mask) != 0
    if mask.shape != (image.height, image.width):
        raise InputError(
            f'the mask {example.mask} has {mask.shape[1]} x {mask.shape[0]} pixels, its image '
            f'{example.image} {image.width} x {image.height}'
        )
    if not mask.any():
        raise InputError(f'the mask {example.mask} is empty: all of its pixels are 0')
    return mask


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box (left, top, right, bottom) with all pixels of a mask (H, W)."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def grid_boxes(size: tuple[int, int], counts: Sequence[int] = (1, 2, 3)) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of grids of an image of (width, height), each of at least a pixel."""
    width, height = size
    return [
        (
            column * width // count,
            row * height // count,
            max((column + 1) * width // count, column * width // count + 1),
            max((row + 1) * height // count, row * height // count + 1),
        )
        for count in counts
        for row in range(count)
        for column in range(count)
    ]


def _sha256(path: str, name: str) -> str:
    try:
        return sha256(regular_file(path))
    except (InputError, OSError) as error:
        raise InputError(f'class {name!r}: {error}') from error
