"""Inputs of the section "Words around class names" of docs/input_contract.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipdense.vocab.vocabulary import Vocabulary
from clipdense.vocab.wording import with_wording

SECTION = 'Words around class names'
NAMES = Vocabulary(('cat', 'dog'))
CAT, DOG = {'prefix': 'a ', 'name': 'house cat', 'suffix': ' at home'}, {'name': 'dog'}
CONFIG = """
DATASETS:
  CAPTION_PROMPT: '[{"prefix": "", "name": "house cat", "suffix": ""}, {"name": "dog"}, ]'
"""


def worded(content: Any, queries: tuple[str, ...] = (), name: str = 'words.json') -> Any:
    """Read a file; of those that are read, the words that are asked."""

    def read(folder: Path) -> None:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        assert tuple(words for words, _ in with_wording(NAMES, folder / name).queries) == queries

    return read


READ = {
    'a list of `{"prefix": "", "name": "", "suffix": ""}`': worded([CAT, DOG], ('house cat', 'dog')),
    'an object of class name and words': worded({'Cat': 'house cat'}, ('house cat', 'dog')),
    '`{"sentence": "", "phrases": []}`': worded(
        {'sentence': 'cats and dogs', 'phrases': ['cats', 'dogs']}, ('cats', 'dogs')
    ),
    'a config of ODinW with `CAPTION_PROMPT`': worded(CONFIG, ('house cat', 'dog'), 'odinw.yaml'),
    'a file for another vocabulary': worded({'zebra': 'a zebra'}),
    'a list of another length': worded([CAT]),
    'a sentence without a phrase of a class': worded({'sentence': 'cats', 'phrases': {'cat': 'cats'}}),
    'a phrase that the sentence does not have': worded({'sentence': 'cats', 'phrases': ['cats', 'dogs']}),
    'an unknown key, a number in place of words': worded({'cat': {'nmae': 'x'}}),
    'an empty list or object of a config': worded('DATASETS: {}', name='odinw.yaml'),
}


def test_row(row, check):
    check(row, READ)
