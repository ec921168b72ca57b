"""Inputs of the section "Rules of `clipdense filter`" of docs/input_contract.md."""

from __future__ import annotations

import pytest

from clipdense.data.image_text.filtering import filter_shards
from clipdense.data.image_text.filters import FilterRules, PairScore
from clipdense.data.scenes import write_scenes

SECTION = 'Rules of `clipdense filter`'


class Cosines:
    """A model whose pairs fit equally well."""

    digest, min_score, max_score = 'x', None, 1.0

    def __call__(self, images, captions):
        return [[PairScore(0.5) for _ in some] for some in captions]


@pytest.fixture(scope='module', autouse=True)
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp('scenes')
    write_scenes(folder, num_train=2, num_val=1)
    Rules.shards = folder / 'shards' / 'train'


class Rules:
    """A filtering with these rules; ``out`` is the output folder, a new one by default."""

    shards = None

    def __init__(self, scorer=None, out='out', **rules):
        self.scorer, self.out, self.rules = scorer, out, rules

    def __call__(self, folder):
        return filter_shards(self.shards, folder / self.out, FilterRules(**self.rules), self.scorer)


def other_rules(folder):
    Rules(min_words=1)(folder)
    Rules(min_words=2)(folder)


READ = {
    'no rule and no model': Rules(),
    'lowest score without a model': Rules(min_score=0.5),
    'lowest score that is NaN': Rules(Cosines(), min_score=float('nan')),
    'lowest score above all scores, such as 28 for cosines': Rules(Cosines(), min_score=28),
    'lowest score of captions by a model, without such captions': Rules(min_caption_score=-0.5),
    'lowest score of captions by a model above 0': Rules(min_caption_score=0.5),
    'output folder of other rules': other_rules,
    'output folder with the shards': lambda folder: filter_shards(
        Rules.shards, Rules.shards, FilterRules(min_words=1)
    ),
}


def test_row(row, check):
    check(row, READ)
