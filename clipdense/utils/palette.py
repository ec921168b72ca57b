"""Colors of classes: fixed, distinct, and distinguishable with red-green color blindness.  NumPy only."""

from __future__ import annotations

import functools

import numpy as np

# The first colors: Okabe & Ito (2008) without black, then 13 chosen for their distance to all earlier ones.
_FIRST = (
    ('e69f00', '56b4e9', '009e73', 'f0e442', '0072b2', 'd55e00', 'cc79a7')
    + ('5a1e00', '78ffff', '002d78', '873c4b', '87d2a5', '0000ff')
    + ('b4ffb4', '5a87ff', 'b43c00', '96d2ff', '3c2db4', 'b42d87', '5a0f4b')
)  # fmt: skip
_STEP = 15  # spacing of the RGB grid of later colors
_MOST = 2048  # number of different colors
_NEIGHBORS, _APART = 10, 0.1  # later colors have this distance to that many earlier ones

# Linear RGB -> linear RGB as seen without red-sensitive and without green-sensitive cones:
# Machado, Oliveira & Fernandes (2009), severity 1.
_VISIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)
# Linear RGB -> cone responses -> (lightness, green-red, blue-yellow): Ottosson (2020), Oklab.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def class_palette(count: int, background: int | None = None) -> np.ndarray:
    """The colors of classes; the color of class i does not depend on ``count``.

    The first 20 are chosen by hand.  Each later one is the grid color that is farthest from all earlier ones
    and differs clearly from the previous ten.  Distances are in Oklab, the smallest of three: with
    normal vision, protanopia and deuteranopia.  After 2,048 the colors repeat.

    Args:
        count: K.
        background: index of a class that is black; no other class is black.

    Returns:
        (K, 3) uint8 RGB.
    """
    size = 32
    while size < min(count, _MOST):
        size *= 2
    colors = _generated(size)[np.arange(count) % _MOST].copy()
    if background is not None:
        colors[background] = 0
    return colors


def text_color(color: tuple[int, ...] | np.ndarray) -> tuple[int, int, int]:
    """Black or white, whichever is easier to read on a color (relative luminance of WCAG 2)."""
    luminance = float(_linear(np.asarray(color)) @ (0.2126, 0.7152, 0.0722))
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)  # equal contrast at 0.179


@functools.lru_cache(maxsize=8)
def _generated(count: int) -> np.ndarray:
    """The first ``count`` colors."""
    colors = np.array([[int(code[at : at + 2], 16) for at in (0, 2, 4)] for code in _FIRST])
    grid = np.arange(0, 256, _STEP)
    candidates = np.stack(np.meshgrid(grid, grid, grid, indexing='ij'), axis=-1).reshape(-1, 3)
    lightness, *chroma = _seen(candidates)[0].T
    vivid = (np.hypot(*chroma) > 0.075) & (lightness > 0.32) & (lightness < 0.95)  # not gray, black or white
    candidates = candidates[vivid]
    seen = _seen(candidates)
    distances = [_distances(seen, _seen(color[None])) for color in colors]  # of each color: (candidates,)
    nearest = np.min(distances, axis=0)
    chosen = list(colors)
    for _ in range(count - len(colors)):
        recent = np.min(distances[-_NEIGHBORS:], axis=0)
        best = int(np.argmax(np.where(recent >= _APART, nearest, -1)))
        chosen.append(candidates[best])
        distances.append(_distances(seen, seen[:, best : best + 1]))
        nearest = np.minimum(nearest, distances[-1])
    return np.array(chosen[:count], np.uint8)


def _linear(colors: np.ndarray) -> np.ndarray:
    """8-bit sRGB -> linear, 0 to 1."""
    values = np.asarray(colors, float) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _seen(colors: np.ndarray) -> np.ndarray:
    """(n, 3) sRGB -> (3, n, 3) Oklab with each kind of vision."""
    light = np.clip(np.einsum('vij,nj->vni', _VISIONS, _linear(colors)), 0, 1)
    return np.cbrt(light @ _CONES.T) @ _OKLAB.T


def _distances(seen: np.ndarray, one: np.ndarray) -> np.ndarray:
    """(3, n, 3) and (3, 1, 3) -> (n,), rounded so that ties are equal on all machines."""
    return np.linalg.norm(seen - one, axis=-1).min(axis=0).round(6)
