"""tools/caption_scenes.py on a model that knows the truth."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clipdense.data.scenes import SceneCaptions, SceneLabels
from clipdense.tasks.captioning import Caption

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))

from caption_scenes import measure


class Knows:
    """Describes images by their pixels, as the scenes do."""

    def __init__(self, split, change=lambda text: text):
        self.known, self.change = {}, change
        labels = SceneLabels(split, 6, image_size=32)
        scenes = SceneCaptions(6, splits=(split,), stream='val', vary_captions=False, image_size=32)
        for index in range(6):
            name = labels.class_names[labels[index]['labels']]
            self.known[self.key(labels[index]['images'])] = f'a {name}'
            self.known[self.key(scenes[index]['images'])] = scenes.caption(index)

    @staticmethod
    def key(image):
        return image.numpy().tobytes()

    def stream(self, images, batch_size):
        for index, image in enumerate(images):
            yield index, Caption(self.change(self.known[image.transpose(2, 0, 1).tobytes()]), 0.0)


def test_the_truth():
    found = measure(Knows('base'), 'base', 6, 32)
    assert (found['named'], found['right'], found['BLEU-4']) == pytest.approx((1, 1, 1))
    assert found['objects'] > 0.5  # captions leave some out


def test_wrong_shapes():
    wrong = {'circle': 'square', 'square': 'triangle', 'triangle': 'star', 'star': 'circle'}

    def change(text):
        return ' '.join(wrong.get(word, word) for word in text.replace(',', ' ,').split())

    found = measure(Knows('novel', change), 'novel', 6, 32)
    assert (found['named'], found['right']) == (0, 0)


def test_nothing_is_said():
    found = measure(Knows('unseen', lambda text: 'a picture'), 'unseen', 6, 32)
    assert {name: value for name, value in found.items() if name in ('named', 'right', 'objects')} == {
        'named': 0,
        'right': 0,
        'objects': 0,
    }
