"""Shapes, textures and grounds on a float32 canvas.

Only sums, products, quotients, square roots and comparisons are used, whose results IEEE 754 fixes to the
last bit: an image is the same on every platform.  S: side of the canvas, (h, w): an object's window.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .rng import RandomStream

Outline = Callable[[np.ndarray, np.ndarray, float], np.ndarray]
Point = tuple[float, float]

# A color, and the second colors that its textures may have: those that stand out against it.
COLORS: dict[str, tuple[tuple[int, int, int], tuple[str, ...]]] = {
    'red': ((214, 36, 42), ('pale', 'dark')),
    'green': ((34, 158, 58), ('pale', 'dark')),
    'blue': ((40, 78, 222), ('pale',)),
    'yellow': ((242, 206, 32), ('dark',)),
    'purple': ((146, 44, 186), ('pale',)),
    'orange': ((242, 124, 22), ('pale', 'dark')),
}
_SECOND = {'pale': (238, 238, 232), 'dark': (30, 28, 34)}
_RIGHT = ((0.951057, -0.309017), (0.587785, 0.809017))
_TIPS = ((0.0, -1.0), *_RIGHT, *((-x, y) for x, y in _RIGHT))  # of a star, y downwards


@dataclass(frozen=True)
class Figure:
    """A shape placed on the canvas."""

    window: tuple[slice, slice]  # its rows and columns of the canvas
    distance: np.ndarray  # (h, w) pixels to the outline, negative inside
    x: np.ndarray  # (1, w) pixel centers relative to the figure's center
    y: np.ndarray  # (h, 1)
    radius: float

    @property
    def inside(self) -> np.ndarray:
        """(h, w) pixels whose center the figure covers: its exact mask."""
        return self.distance <= 0


def lay_out(shape: str, center: Point, radius: float, turn: float, size: int) -> Figure:
    """Place a shape on a canvas of ``size`` x ``size`` pixels.

    Args:
        shape: one of ``OUTLINES``.
        center: (x, y) in pixels, where 0 is the left or upper edge.
        radius: in pixels.
        turn: tangent of half the angle of rotation.
        size: S.
    """
    outline, extent = OUTLINES[shape]
    columns, x = _axis(center[0], extent * radius, size)
    rows, y = _axis(center[1], extent * radius, size)
    x, y = x[None, :], y[:, None]
    return Figure((rows, columns), outline(*_rotate(x, y, turn), np.float32(radius)), x, y, radius)


def paint_object(canvas: np.ndarray, figure: Figure, color: str, texture: str, rng: RandomStream) -> None:
    """Blend a colored, textured figure into the (S, S, 3) canvas, its edge smoothed over one pixel."""
    rgb, seconds = COLORS[color]
    light = rng.uniform(0.85, 1.1)
    first = np.array([value * light + rng.uniform(-12, 12) for value in rgb], np.float32)
    second = np.array(_SECOND[rng.choice(seconds)], np.float32)
    turn, shift = rng.uniform(-1, 1), (rng.uniform(), rng.uniform())
    if pattern := TEXTURES[texture]:
        share = _soft(pattern(figure, turn, shift))[..., None]  # (h, w, 1)
        _blend(canvas, figure, first + share * (second - first))
    else:
        _blend(canvas, figure, first)


def paint_clutter(canvas: np.ndarray, rng: RandomStream) -> None:
    """Blend a small gray shape without a class into the canvas: a bar or a circle."""
    size = len(canvas)
    center = (rng.uniform(0, size), rng.uniform(0, size))
    shape = rng.choice(('bar', 'circle'))
    radius = size * rng.uniform(0.03, 0.06) * (2.2 if shape == 'bar' else 1.0)
    figure = lay_out(shape, center, radius, rng.uniform(-1, 1), size)
    level = rng.choice((rng.uniform(20, 80), rng.uniform(170, 235)))
    _blend(canvas, figure, np.array([level + rng.uniform(-10, 10) for _ in range(3)], np.float32))


def paint_ground(name: str, size: int, rng: RandomStream) -> np.ndarray:
    """A new (S, S, 3) float32 canvas: a tint of low saturation, varied by one of ``GROUNDS``."""
    level = rng.uniform(70, 195)
    tint = np.array([level + rng.uniform(-20, 20) for _ in range(3)], np.float32)
    return GROUNDS[name](size, rng)[..., None] + tint


def finish(canvas: np.ndarray) -> np.ndarray:
    """(S, S, 3) float32 -> uint8."""
    return (np.clip(canvas, 0, 255) + np.float32(0.5)).astype(np.uint8)


def _blend(canvas: np.ndarray, figure: Figure, color: np.ndarray) -> None:
    region = canvas[figure.window]
    region += _soft(-figure.distance)[..., None] * (color - region)


def _soft(distance: np.ndarray) -> np.ndarray:
    """A step from 0 to 1 over one pixel around distance 0."""
    return np.minimum(np.maximum(distance + np.float32(0.5), 0), 1)


def _axis(center: float, reach: float, size: int) -> tuple[slice, np.ndarray]:
    """The pixels of one axis within ``reach`` of ``center``, and their centers relative to it."""
    first, last = max(int(center - reach) - 1, 0), min(int(center + reach) + 2, size)
    return slice(first, last), np.arange(first, last, dtype=np.float32) + np.float32(0.5 - center)


def _rotate(x: np.ndarray, y: np.ndarray, turn: float) -> tuple[np.ndarray, np.ndarray]:
    """Rotate by the angle whose half has the tangent ``turn``."""
    cosine = np.float32((1 - turn * turn) / (1 + turn * turn))
    sine = np.float32(2 * turn / (1 + turn * turn))
    return cosine * x + sine * y, cosine * y - sine * x


def _circle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.sqrt(x * x + y * y) - radius


def _ring(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.abs(np.sqrt(x * x + y * y) - np.float32(0.75) * radius) - np.float32(0.32) * radius


def _box(width: float, height: float) -> Outline:
    w, h = np.float32(width), np.float32(height)
    return lambda x, y, radius: np.maximum(np.abs(x) - w * radius, np.abs(y) - h * radius)


def _cross(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    return np.minimum(_box(1.05, 0.38)(x, y, radius), _box(0.38, 1.05)(x, y, radius))


def _triangle(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    slope = np.float32(0.866025) * np.abs(x) - np.float32(0.5) * y
    return np.maximum(slope, y) - np.float32(0.65) * radius


def _star(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """A pentagram: the points that lie outside at most one of its five lines."""
    largest = second = np.float32(-1e9)
    for tip_x, tip_y in _TIPS:
        line = np.float32(tip_x) * x + np.float32(tip_y) * y
        second = np.maximum(second, np.minimum(largest, line))
        largest = np.maximum(largest, line)
    return second - np.float32(0.45) * radius


# The outline, and how far it reaches from its center in radii.
OUTLINES: dict[str, tuple[Outline, float]] = {
    'circle': (_circle, 1.0),
    'square': (_box(0.88, 0.88), 1.245),
    'triangle': (_triangle, 1.3),
    'star': (_star, 1.457),
    'cross': (_cross, 1.117),
    'ring': (_ring, 1.07),
    'bar': (_box(1.0, 0.22), 1.024),
}


def _wave(values: np.ndarray, period: float) -> np.ndarray:
    """Pixels to the middle of the nearest stripe."""
    turns = values * np.float32(1 / period)
    return np.abs(turns - np.floor(turns) - np.float32(0.5)) * np.float32(period)


def _waves(figure: Figure, turn: float, shift: Point, period: float) -> tuple[np.ndarray, np.ndarray]:
    x, y = _rotate(figure.x, figure.y, turn)
    return _wave(x + np.float32(shift[0] * period), period), _wave(y + np.float32(shift[1] * period), period)


def _striped(figure: Figure, turn: float, shift: Point) -> np.ndarray:
    period = 0.72 * figure.radius
    return np.float32(period / 4) - _waves(figure, turn, shift, period)[0]


def _dotted(figure: Figure, turn: float, shift: Point) -> np.ndarray:
    period = 0.85 * figure.radius
    u, v = _waves(figure, turn, shift, period)
    return np.float32(0.27 * period) - np.sqrt(u * u + v * v)


def _checked(figure: Figure, turn: float, shift: Point) -> np.ndarray:
    period = 1.3 * figure.radius
    u, v = _waves(figure, turn, shift, period)
    u, v = np.float32(period / 4) - u, np.float32(period / 4) - v
    return np.where(u * v > 0, np.float32(1), np.float32(-1)) * np.minimum(np.abs(u), np.abs(v))


def _ringed(figure: Figure, turn: float, shift: Point) -> np.ndarray:
    period = 0.66 * figure.radius
    distance = np.sqrt(figure.x * figure.x + figure.y * figure.y)
    return np.float32(period / 4) - _wave(distance + np.float32(shift[0] * period), period)


# Signed distance in pixels to the border between two colors, positive in the second; None: one color only.
TEXTURES: dict[str, Callable[[Figure, float, Point], np.ndarray] | None] = {
    'solid': None,
    'striped': _striped,
    'dotted': _dotted,
    'checked': _checked,
    'ringed': _ringed,
}


def _plain(size: int, rng: RandomStream) -> np.ndarray:
    along = np.linspace(-1, 1, size, dtype=np.float64).astype(np.float32)
    across, down = np.float32(rng.uniform(-14, 14)), np.float32(rng.uniform(-14, 14))
    return across * along[None, :] + down * along[:, None]


def _sandy(size: int, rng: RandomStream) -> np.ndarray:
    return _coarse(size, 32, rng) * np.float32(0.2)


def _rough(size: int, rng: RandomStream) -> np.ndarray:
    return _coarse(size, 9, rng) * np.float32(0.28)


def _cloudy(size: int, rng: RandomStream) -> np.ndarray:
    weights = _hat_weights(size)  # (S, 5)
    smooth = weights @ rng.noise(5, 5) @ weights.T  # whole numbers < 2 ** 24: exact in any order
    return smooth * np.float32(0.42 / 32**2) - np.float32(54)


def _woven(size: int, rng: RandomStream) -> np.ndarray:
    threads = np.arange(size, dtype=np.int64) * 16 // size + rng.integer(16)
    crossing = (threads[:, None] + threads[None, :]) % 4 < 2
    return np.where(crossing, np.float32(9), np.float32(-9))


GROUNDS: dict[str, Callable[[int, RandomStream], np.ndarray]] = {
    'plain': _plain,
    'sandy': _sandy,
    'rough': _rough,
    'cloudy': _cloudy,
    'woven': _woven,
}


def _coarse(size: int, cells: int, rng: RandomStream) -> np.ndarray:
    """Noise around zero in about ``cells`` x ``cells`` squares."""
    at = np.arange(size, dtype=np.int64) * cells // size
    return (rng.noise(cells, cells) - np.float32(127.5))[at][:, at]


@functools.lru_cache(maxsize=8)
def _hat_weights(size: int) -> np.ndarray:
    """(S, 5) weights of linear interpolation between five knots, in whole 32nds."""
    place = (np.arange(size) * 128 + 64) // size  # 0 ... 128: four intervals of 32
    weights = 32 - np.abs(place[:, None] - 32 * np.arange(5)[None, :])
    return np.maximum(weights, 0).astype(np.float32)
