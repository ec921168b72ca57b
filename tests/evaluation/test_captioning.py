"""BLEU and CIDEr-D of captions: coco-caption's numbers, and what is counted."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from torch import nn

from clipdense.clip.preprocess import Preprocess
from clipdense.data.image_text.datasets import CsvPairs
from clipdense.data.scenes import SceneCaptions
from clipdense.evaluation.captioning import CaptionQuality, bleu, cider, words_of
from clipdense.tasks.captioning import Caption, CaptionRules
from clipdense.utils.errors import InputError


class Describes(nn.Module):
    """Writes given texts, by the number of the image."""

    def __init__(self, texts):
        super().__init__()
        self.texts, self.preprocess = texts, Preprocess.named('openai', 32)
        self.weight = nn.Parameter(torch.zeros(1))

    def check_captions(self, rules):
        assert isinstance(rules, CaptionRules)

    def caption(self, images, rules, numbers=()):
        assert images.shape[1:] == (3, 32, 32)
        return [Caption(self.texts[number], -1.0) for number in numbers]


def test_scores_of_coco_caption(golden_path):
    known = json.loads((golden_path('coco_caption_scores.json')).read_text())
    found = [words_of(text) for text in known['found']]
    captions = [[words_of(text) for text in texts] for texts in known['known']]
    assert bleu(found, captions) == pytest.approx(known['bleu'], abs=1e-12)
    assert cider(found, captions) == pytest.approx(known['cider'], abs=1e-12)


def test_words():
    assert words_of("A T-shirt, red & Peter's; 3.5 m. Ünder -- (x)") == [
        *('a', 't-shirt', 'red', "peter's", '3.5', 'm', 'ünder', 'x')
    ]


@pytest.mark.parametrize(
    ('found', 'known', 'best'),
    [
        (['', ''], [['a cat'], ['a dog']], 0.0),
        (['a cat', 'a dog'], [['a cat'], ['a dog']], 1.0),
        (['a bird', 'a fish'], [['a cat'], ['a dog']], 0.5),
    ],
)
def test_short_captions(found, known, best):
    """One-word BLEU; CIDEr-D counts no word that all images have."""
    found, known = [words_of(one) for one in found], [[words_of(one) for one in some] for some in known]
    assert bleu(found, known)[0] == pytest.approx(best, abs=1e-6)
    assert (cider(found, known) > 0) == (best == 1.0)


def test_of_a_model():
    data = SceneCaptions(6, image_size=32, vary_captions=False)
    right = [data.caption(index) for index in range(6)]
    report = CaptionQuality(data, batch_size=4)(Describes(right))
    assert report['captions/BLEU-4'] == pytest.approx(1)
    assert report['captions/images'] == 6
    assert report['captions/CIDEr'] > 5
    worse = CaptionQuality(data, batch_size=4, name='x')(Describes(right[1:] + right[:1]))
    assert worse['x/CIDEr'] < 1
    assert worse['x/words'] == pytest.approx(report['captions/words'])


def test_unreadable_images_do_not_count(tmp_path):
    Image.new('RGB', (40, 30)).save(tmp_path / 'a.png')
    (tmp_path / 'b.png').write_text('no image')
    (tmp_path / 'captions.tsv').write_text('filepath\ttitle\nb.png\ta cat\na.png\ta dog\n')
    data = CsvPairs(tmp_path / 'captions.tsv', max_bad_fraction=1.0)
    report = CaptionQuality(data)(Describes(['a cat', 'a dog']))
    assert (report['captions/images'], report['captions/unreadable']) == (1, 1)
    assert report['captions/BLEU-2'] == pytest.approx(1)
    (tmp_path / 'a.png').write_text('no image')
    with pytest.raises(InputError, match='no images that can be read'):
        CaptionQuality(CsvPairs(tmp_path / 'captions.tsv', max_bad_fraction=1.0))(Describes(['', '']))


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: CaptionQuality([1, 2]), r'captions: the dataset has no captions_of.index.'),
        (lambda: CaptionQuality(SceneCaptions(2), {'beams': 0}), 'beams must be a whole number'),
        (lambda: CaptionQuality(SceneCaptions(2))(nn.Linear(2, 2)), 'Linear does not describe images'),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(InputError, match=message):
        call()
