"""The published prompts, and embeddings made of them."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.clip.text_embeddings import embed_texts
from clipdense.methods.vild.prompts import SINGLE, TEMPLATES, article_of, embed_words, plain_name, prompts
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

TINY = ClipSize(VitSize(32, 16, 32, 1, 1, 32, 16), TextSize(32, 1, 1, 32, 16))


def test_prompts_are_the_published_ones(golden_path):
    official = json.loads(golden_path('vild_prompts.json').read_text())
    assert list(TEMPLATES) == official['templates']
    assert len(TEMPLATES) == official['n_templates'] == 63
    assert sum(text.startswith('This is ') for text in prompts('cat')) == official['n_prefixed']
    for one in official['classes']:
        assert article_of(one['name']) == one['article']
        assert plain_name(one['name']) == one['processed']
        assert prompts(one['name']) == one['prompts']
        assert prompts(one['name'], [SINGLE]) == [one['single_prompt']]


def test_a_blank_name_is_refused():
    with pytest.raises(InputError, match='blank'):
        prompts(' ')


def test_embeddings_are_means_over_the_prompts():
    torch.manual_seed(0)
    clip = build_clip(TINY).eval()
    vocabulary = Vocabulary(('hot_dog', 'orange'), {'orange': ('citrus',)})
    found = embed_words(clip, vocabulary)
    for row, word in enumerate(('hot_dog', 'orange', 'citrus')):
        mean = embed_texts(clip, prompts(word)).mean(dim=0)
        assert_close(found.queries[row], mean / mean.norm(), atol=1e-5, rtol=1e-5)
    assert found.query_class.tolist() == [0, 1, 1]


def test_words_with_the_same_prompts_share_them():
    clip = build_clip(TINY).eval()
    found = embed_words(clip, Vocabulary(('hot_dog', 'cat'), {'cat': ('hot dog',)}))
    assert torch.equal(found.queries[0], found.queries[2])
    assert found.query_class.tolist() == [0, 1, 1]


def test_other_templates_go_their_usual_way():
    clip = build_clip(TINY).eval()
    found = embed_words(clip, Vocabulary(('cat',)), 'name')
    assert_close(found.queries, embed_texts(clip, ['cat']))
