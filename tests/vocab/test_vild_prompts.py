"""The published prompts, and embeddings made of them."""

from __future__ import annotations

import json

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.class_embeddings import PromptEnsemble, embed_texts
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.utils.errors import InputError
from clipdense.vocab.templates import get_templates
from clipdense.vocab.vild_prompts import VILD, article_of, plain_name, vild_prompts
from clipdense.vocab.vocabulary import Vocabulary

TINY = ClipSize(VitSize(32, 16, 32, 1, 1, 32, 16), TextSize(32, 1, 1, 32, 16))


def test_prompts_are_the_published_ones(golden_path):
    official = json.loads(golden_path('vild_prompts.json').read_text())
    assert list(VILD) == official['templates']
    assert len(VILD) == official['n_templates'] == 63
    assert sum(text.startswith('This is ') for text in vild_prompts('cat')) == official['n_prefixed']
    for one in official['classes']:
        assert article_of(one['name']) == one['article']
        assert plain_name(one['name']) == one['processed']
        assert vild_prompts(one['name']) == one['prompts']
        assert vild_prompts(one['name'], ['a photo of {article} {}.']) == [one['single_prompt']]


def test_a_blank_name_is_refused():
    with pytest.raises(InputError, match='blank'):
        vild_prompts(' ')


def test_embeddings_are_means_over_the_prompts():
    torch.manual_seed(0)
    clip = build_clip(TINY).eval()
    vocabulary = Vocabulary(('hot_dog', 'orange'), {'orange': ('citrus',)})
    found = PromptEnsemble(clip, 'vild', cache=None).embed(vocabulary)
    for row, word in enumerate(('hot_dog', 'orange', 'citrus')):
        mean = embed_texts(clip, vild_prompts(word)).mean(dim=0)
        assert_close(found.queries[row], mean / mean.norm(), atol=1e-5, rtol=1e-5)
    assert found.query_class.tolist() == [0, 1, 1]


def test_words_with_the_same_prompts_share_them():
    clip = build_clip(TINY).eval()
    found = PromptEnsemble(clip, 'vild', cache=None).embed(
        Vocabulary(('hot_dog', 'cat'), {'cat': ('hot dog',)})
    )
    assert torch.equal(found.queries[0], found.queries[2])
    assert found.query_class.tolist() == [0, 1, 1]


def test_the_registry_has_them():
    templates = get_templates('vild')
    assert templates.prompts('hot_dog') == vild_prompts('hot_dog')
    assert len(templates) == 63
    assert templates.formats[8:10] == ['This is a photo of a {}.', 'This is a photo of my {}.']
