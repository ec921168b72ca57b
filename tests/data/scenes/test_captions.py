"""Captions: true, varied, in correct English."""

from __future__ import annotations

import re

import numpy as np
import pytest

from clipdense.data.scenes import Scenes
from clipdense.data.scenes.captions import with_article, write_caption
from clipdense.data.scenes.painting import GROUNDS
from clipdense.data.scenes.rng import RandomStream

SCENES = Scenes('hard')
DRAWN = [SCENES.draw(index) for index in range(300)]
APART = np.array([[0, 0, 4, 4], [10, 0, 14, 4]], np.float32)  # the first to the left of the second
OVER = np.array([[0, 0, 4, 4], [1, 6, 5, 9]], np.float32)
TOUCHING = np.array([[0, 0, 4, 4], [3, 3, 8, 8]], np.float32)


def captions(boxes, names=('red ring', 'orange star'), count=300):
    return {write_caption(names, boxes, 'plain', RandomStream(0, 'test', index)) for index in range(count)}


def test_only_what_is_there_is_named():
    for scene in DRAWN:
        there = {SCENES.class_names[at] for at in scene.class_ids}
        named = {name for name in SCENES.class_names if re.search(rf'\b{name}\b', scene.caption)}
        assert named
        assert named <= there


def test_captions_vary_in_wording_and_length():
    texts = [scene.caption for scene in DRAWN]
    lengths = {len(text.split()) for text in texts}
    assert len(set(texts)) > 290
    assert max(lengths) > 3 * min(lengths)
    assert any(text.startswith('a photo of') for text in texts)
    grounds = [scene.ground in scene.caption for scene in DRAWN]
    assert 0.2 < np.mean(grounds) < 0.5
    partial = [
        sum(SCENES.class_names[at] in s.caption for at in s.class_ids) < len(s.class_ids) for s in DRAWN
    ]
    assert 0.1 < np.mean(partial) < 0.4


def test_articles():
    assert [with_article(word) for word in ('red ring', 'orange ring')] == ['a red ring', 'an orange ring']
    for scene in DRAWN:
        assert not re.search(r'\ba [aeiou]|\ban [^aeiou]', scene.caption)
        assert '  ' not in scene.caption
        assert '{' not in scene.caption


@pytest.mark.parametrize(
    ('boxes', 'true', 'false'),
    [
        (
            APART,
            ['red ring to the left of an orange star', 'orange star to the right of a red ring'],
            'above|below',
        ),
        (OVER, ['red ring above an orange star', 'orange star below a red ring'], 'left|right'),
        (TOUCHING, ['red ring and an orange star'], 'left|right|above|below'),
    ],
    ids=['beside', 'over', 'touching'],
)
def test_relations_are_true(boxes, true, false):
    texts = captions(boxes)
    for phrase in true:
        assert any(phrase in text for text in texts)
    assert not any(re.search(false, text) for text in texts)
    assert not any('star to the left' in text or 'star above' in text for text in texts)


def test_one_object_and_ground():
    texts = captions(APART[:1], ['red ring'])
    assert {'a red ring', 'a photo of a red ring', 'there is a red ring on a plain ground'} <= texts


def test_grounds_are_not_words_of_classes():
    words = {word for name in SCENES.class_names for word in name.split(' ')}
    assert not words & set(GROUNDS)
