"""Captions of scenes, in natural wording."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .rng import RandomStream

_GROUND_PHRASES = ('on {a} ground', 'on {a} background', 'in front of {a} wall', 'against {a} background')
_OPENINGS = ('', '', '', 'a picture of ', 'a photo of ', 'an image of ', 'a drawing of ', 'there is ')
_PAIRS = ('{0} and {1}', '{0} with {1}', '{0} next to {1}', '{0}, {1}')
_LISTS = ('{head} and {last}', '{head}, and {last}', '{head} with {last}')


def with_article(phrase: str) -> str:
    """``'orange ring' -> 'an orange ring'``."""
    return f'{"an" if phrase[0] in "aeiou" else "a"} {phrase}'


def write_caption(names: Sequence[str], boxes: np.ndarray, ground: str, rng: RandomStream) -> str:
    """Describe an image, or a part of it.

    Objects come in random order; one time in four only some of them are named, one time in three the ground
    is named, and the relative position of two clearly separated objects is sometimes stated.

    Args:
        names: class names of the n objects.
        boxes: (n, 4) x1, y1, x2, y2.
        ground: name of the ground.
        rng: random numbers for all choices.
    """
    count = len(names)
    if count > 1 and rng.uniform() < 0.25:
        count = 1 + rng.integer(count - 1)
    order = rng.sample(range(len(names)), count)
    relation = _relation(boxes[order[0]], boxes[order[1]]) if count == 2 and rng.uniform() < 0.4 else None
    phrases = [with_article(names[at]) for at in order]
    caption = rng.choice(_OPENINGS) + _join(phrases, relation, rng)
    if rng.uniform() < 1 / 3:
        caption += ' ' + rng.choice(_GROUND_PHRASES).format(a=with_article(ground))
    return caption


def _join(phrases: Sequence[str], relation: str | None, rng: RandomStream) -> str:
    if not phrases:
        return 'nothing'
    if len(phrases) == 1:
        return phrases[0]
    if relation:
        return f'{phrases[0]} {relation} {phrases[1]}'
    if len(phrases) == 2:
        return rng.choice(_PAIRS).format(*phrases)
    return rng.choice(_LISTS).format(head=', '.join(phrases[:-1]), last=phrases[-1])


def _relation(first: np.ndarray, second: np.ndarray) -> str | None:
    """Position of the first box relative to the second; None unless one axis separates them completely."""
    gaps = {
        'to the left of': second[0] - first[2],
        'to the right of': first[0] - second[2],
        'above': second[1] - first[3],
        'below': first[1] - second[3],
    }
    relation, gap = max(gaps.items(), key=lambda item: item[1])
    return relation if gap >= 0 else None
