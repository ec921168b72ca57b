"""Drawing scenes.  S: side of an image in pixels, n: objects in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...utils.errors import InputError, nearest
from . import painting
from .captions import write_caption
from .combinations import DIFFICULTIES, SPLITS, split_classes
from .rng import RandomStream

if TYPE_CHECKING:
    from ...vocab.vocabulary import Vocabulary

MIN_VISIBLE = 0.5  # fraction of an object that must be visible
_TRIES = 24  # positions tried for an object
_TILT = 0.18  # tangent of half the largest rotation, about 20 degrees


@dataclass(frozen=True)
class Scene:
    """An image with its annotations.

    Args:
        image: (S, S, 3) uint8 RGB.
        caption: names some or all of the objects.
        mask: (S, S) uint8, 0 for the ground, else 1 + index into ``Scenes.class_names``.
        boxes: (n, 4) float32 x1, y1, x2, y2 around the visible part; x2 and y2 are one past the last pixel.
        class_ids: (n,) int64 indices into ``Scenes.class_names``, from back to front.
        ground: name of the ground.
    """

    image: np.ndarray
    caption: str
    mask: np.ndarray
    boxes: np.ndarray
    class_ids: np.ndarray
    ground: str


class _Placed(NamedTuple):
    class_id: int
    figure: painting.Figure


class Scenes:
    """Draws images of colored, textured shapes; each depends on (seed, stream, index) only.

    Args:
        difficulty: a name in ``DIFFICULTIES``.
        seed: of all the images; the split into base, novel and unseen classes does not depend on it.
        image_size: side in pixels, overriding the difficulty's; the scenes stay the same.

    Raises:
        InputError: an unknown difficulty, or images under 16 pixels, too small for a texture.
    """

    def __init__(self, difficulty: str = 'standard', seed: int = 0, image_size: int | None = None) -> None:
        if difficulty not in DIFFICULTIES:
            known = ', '.join(DIFFICULTIES)
            raise InputError(
                f'unknown difficulty {difficulty!r}; use {known}.{nearest(difficulty, DIFFICULTIES)}'
            )
        self.difficulty = DIFFICULTIES[difficulty]
        self.seed = seed
        self.image_size = image_size or self.difficulty.image_size
        if self.image_size < 16:
            raise InputError(f'image_size must be at least 16 pixels, got {self.image_size}')
        self.splits = split_classes(self.difficulty)
        self.class_names = tuple(name for split in SPLITS for name in self.splits[split])
        self._index = {name: at for at, name in enumerate(self.class_names)}
        self._resolved: dict[tuple[str, ...], tuple[int, ...]] = {}

    @property
    def base(self) -> tuple[str, ...]:
        """Classes with captions, masks and boxes."""
        return self.splits['base']

    @property
    def novel(self) -> tuple[str, ...]:
        """Classes with training captions, but without masks and boxes."""
        return self.splits['novel']

    @property
    def unseen(self) -> tuple[str, ...]:
        """Classes that do not occur in training."""
        return self.splits['unseen']

    def draw(
        self,
        index: int,
        allowed: Sequence[str] = ('base', 'novel'),
        num_objects: int | None = None,
        stream: str = 'train',
    ) -> Scene:
        """Draw one image.

        Args:
            index: which image of the stream.
            allowed: names of splits or classes that may occur.
            num_objects: number of objects, or None for a random number within the limits; objects
                that others would hide are left out, so an image may contain fewer, but at least one.
            stream: name of the random stream; different streams give independent images.
        """
        classes = self.indices(allowed)
        rng = RandomStream(self.seed, stream, index)
        count = num_objects or rng.between(self.difficulty.objects)
        ground = rng.choice(tuple(painting.GROUNDS))
        canvas = painting.paint_ground(ground, self.image_size, rng)
        for _ in range(rng.between(self.difficulty.clutter)):
            painting.paint_clutter(canvas, rng)
        placed, labels = _visible(self._place(rng.sample(classes, count), rng), self.image_size)
        for item in placed:
            color, texture, _ = self.class_names[item.class_id].split(' ')
            painting.paint_object(canvas, item.figure, color, texture, rng)
        class_ids = np.array([item.class_id for item in placed], np.int64)
        boxes = _boxes(placed, labels)
        caption = self.caption(index, class_ids, boxes, ground, stream)
        mask = np.concatenate([[0], class_ids + 1]).astype(np.uint8)[labels]
        return Scene(painting.finish(canvas), caption, mask, boxes, class_ids, ground)

    def caption(
        self, index: int, class_ids: np.ndarray, boxes: np.ndarray, ground: str, stream: str, variant: int = 0
    ) -> str:
        """A caption of an image drawn before; each ``variant`` gives another one."""
        rng = RandomStream(self.seed, f'{stream}/caption {variant}', index)
        return write_caption([self.class_names[at] for at in class_ids], boxes, ground, rng)

    def vocabulary(self, splits: Sequence[str] = SPLITS, background: bool = True) -> Vocabulary:
        """The classes of the splits in order; those without masks and boxes in training are novel."""
        from ...vocab.vocabulary import Vocabulary

        names = tuple(self.class_names[at] for at in sorted(self.indices(splits)))
        vocabulary = Vocabulary(names, novel=frozenset(names) - frozenset(self.base))
        return vocabulary.with_background() if background else vocabulary

    def indices(self, allowed: Sequence[str]) -> tuple[int, ...]:
        """Class indices of split names or class names."""
        allowed = tuple(allowed)
        if allowed not in self._resolved:
            self._resolved[allowed] = self._resolve(allowed)
        return self._resolved[allowed]

    def _resolve(self, allowed: tuple[str, ...]) -> tuple[int, ...]:
        found: list[int] = []
        for name in allowed:
            if name not in self.splits and name not in self._index:
                hint = nearest(name, (*self.splits, *self._index))
                raise InputError(f'{name!r} is neither a split ({", ".join(SPLITS)}) nor a class.{hint}')
            found += [self._index[member] for member in self.splits.get(name, (name,))]
        if not found:
            raise InputError('`allowed` is empty; pass at least one split or class name')
        return tuple(dict.fromkeys(found))

    def _place(self, class_ids: Sequence[int], rng: RandomStream) -> list[_Placed]:
        """Find a position for each object where it covers the others as little as possible."""
        size, keep = self.image_size, 1 - self.difficulty.overlap
        shrink = 1 / (1 + 0.12 * (len(class_ids) - 1))
        taken: list[tuple[float, float, float]] = []
        placed = []
        for class_id in class_ids:
            radius = size * shrink * rng.uniform(*self.difficulty.radius)
            best, most = (0.0, 0.0), -float('inf')
            for _ in range(_TRIES):
                x, y = rng.uniform(radius, size - radius), rng.uniform(radius, size - radius)
                clearance = min(
                    (_clearance(x - a, y - b, keep * (radius + c)) for a, b, c in taken), default=0.0
                )
                if clearance > most:
                    best, most = (x, y), clearance
                if clearance >= 0:
                    break
            taken.append((*best, radius))
            shape = self.class_names[class_id].rpartition(' ')[2]
            figure = painting.lay_out(shape, best, radius, rng.uniform(-_TILT, _TILT), size)
            placed.append(_Placed(class_id, figure))
        return placed


def _clearance(x: float, y: float, distance: float) -> float:
    """Squared distance of (x, y) from the origin minus ``distance`` squared; negative if nearer."""
    return x * x + y * y - distance * distance


def _visible(placed: list[_Placed], size: int) -> tuple[list[_Placed], np.ndarray]:
    """Leave out objects that later ones hide, until none is hidden.

    Returns:
        the remaining objects, and (S, S) int64: 1 + position in that list where an object is visible, else 0.
    """
    while True:
        labels = np.zeros((size, size), np.int64)
        for number, item in enumerate(placed, 1):
            labels[item.figure.window][item.figure.inside] = number
        seen = np.bincount(labels.ravel(), minlength=len(placed) + 1)[1:]
        shares = [area / max(item.figure.inside.sum(), 1) for area, item in zip(seen, placed, strict=True)]
        if min(shares) >= MIN_VISIBLE:
            return placed, labels
        # Of equally hidden objects, the front one is removed: it may hide the others.
        worst = max(range(len(shares)), key=lambda at: (-shares[at], at))
        placed = placed[:worst] + placed[worst + 1 :]


def _boxes(placed: Sequence[_Placed], labels: np.ndarray) -> np.ndarray:
    """(n, 4) boxes around the visible part of each object."""
    boxes = np.empty((len(placed), 4), np.float32)
    for at, item in enumerate(placed):
        rows, columns = item.figure.window
        seen = labels[item.figure.window] == at + 1
        across, down = seen.any(axis=0).nonzero()[0], seen.any(axis=1).nonzero()[0]
        left, top = columns.start, rows.start
        boxes[at] = left + across[0], top + down[0], left + across[-1] + 1, top + down[-1] + 1
    return boxes
