"""Exact outlines of masks: polygons along the edges of pixels, so that filling them gives the mask again.

Coordinates count pixels from the image's left and upper edge: the pixel (0, 0) has the corners (0, 0) and
(1, 1), as in COCO, YOLO and LabelMe.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Point = tuple[int, int]


def polygons(mask: NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> list[list[Point]]:
    """One polygon for each part of a mask; each hole is joined to its part by a cut without width.

    Args:
        mask: (h, w).
        corner: x and y of its first pixel.
    """
    rings = [[(x + corner[0], y + corner[1]) for x, y in ring] for ring in _rings(mask)]
    outer = [ring for ring in rings if _twice_area(ring) > 0]
    holes = [ring for ring in rings if _twice_area(ring) < 0]
    for hole in holes:
        around = [ring for ring in range(len(outer)) if _inside(hole[0], hole, outer[ring])]
        at = min(around, key=lambda ring: _twice_area(outer[ring]))
        outer[at] = _joined(outer[at], hole)
    return outer


def polygon(mask: NDArray[np.bool_], corner: tuple[int, int] = (0, 0)) -> list[Point]:
    """All parts of a mask as one polygon, joined by cuts without width; empty for an empty mask."""
    parts = sorted(polygons(mask, corner), key=lambda ring: -_twice_area(ring))
    joined = parts[0] if parts else []
    for part in parts[1:]:
        joined = _joined(joined, part)
    return joined


def _rings(mask: NDArray[np.bool_]) -> list[list[Point]]:
    """Closed outlines with the mask on their right: clockwise around a part, the other way around a hole."""
    padded = np.pad(np.asarray(mask, np.int8), 1)
    across = {}  # corner -> next corner, of edges to the left and right: at most two begin in a corner
    for y, x1, x2, sign in _edges(np.diff(padded, axis=0)[:, 1:-1]):
        start, end = ((x1, y), (x2, y)) if sign > 0 else ((x2, y), (x1, y))
        across[start, sign] = end
    down = {}
    for x, y1, y2, sign in _edges(np.diff(padded, axis=1)[1:-1].T):
        start, end = ((x, y2), (x, y1)) if sign > 0 else ((x, y1), (x, y2))
        down[start, sign] = end
    rings = []
    while across:
        first, end = across.popitem()
        ring, sign = [first[0]], first[1]
        while True:
            # Turn right where two parts touch: from right to down (-1), from left to up (+1).
            ring.append(end)
            turn = -sign if (end, -sign) in down else sign
            end = down.pop((end, turn))
            sign = turn if (end, turn) in across or (end, turn) == first else -turn
            if (end, sign) not in across:  # the first edge
                break
            ring.append(end)
            end = across.pop((end, sign))
        rings.append(ring)
    return rings


def _edges(steps: NDArray[np.int8]) -> list[tuple[int, int, int, int]]:
    """Runs of equal steps in each line of (lines, places): line, start, end, sign."""
    padded = np.pad(steps, ((0, 0), (1, 1)))
    changes = np.diff(padded, axis=1)
    lines, places = np.nonzero(changes)
    values = padded[lines, places + 1]
    begins = np.flatnonzero(values)
    columns = (lines[begins], places[begins], places[begins + 1], values[begins])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def _twice_area(ring: list[Point]) -> int:
    """Positive if clockwise on the screen, where y increases downwards."""
    x, y = np.array(ring, np.int64).T
    return int(x @ np.roll(y, -1) - y @ np.roll(x, -1))


def _inside(point: Point, hole: list[Point], ring: list[Point]) -> bool:
    """Whether a hole is within a ring, by the pixel of the hole beside one of its corners."""
    left = min(hole)  # the leftmost upper corner; the hole's pixel is to the right and below
    x, y = left[0] + 0.5, left[1] + 0.5
    xs, ys = np.array(ring, np.float64).T
    next_x, next_y = np.roll(xs, -1), np.roll(ys, -1)
    upright = xs == next_x
    crossed = upright & (xs > x) & ((ys > y) != (next_y > y))
    return bool(np.count_nonzero(crossed) % 2)


def _joined(ring: list[Point], other: list[Point]) -> list[Point]:
    """Go around a ring, over to the other one, around it, and back: both borders of the cut are one line."""
    first, second = np.array(ring, np.int64), np.array(other, np.int64)
    at = int(np.abs(first - second[0]).sum(1).argmin())
    to = int(np.abs(second - first[at]).sum(1).argmin())
    around = [*other[to:], *other[: to + 1]]
    return [*ring[: at + 1], *around, *ring[at:]]
