"""Rules of generation, and what nucleus sampling draws from."""

from __future__ import annotations

import pytest
import torch

from clipdense.tasks.captioning import CaptionRules
from clipdense.tasks.generation import nucleus
from clipdense.utils.errors import InputError


@pytest.mark.parametrize(('top_p', 'top_k'), [(0.9, 50), (0.3, 50), (1.0, 5), (0.9, 1), (0.01, 50)])
def test_nucleus_of_transformers(top_p, top_k):
    generation = pytest.importorskip('transformers.generation.logits_process')
    scores = torch.randn(4, 60) * 3
    expected = generation.TopKLogitsWarper(top_k)(None, scores)
    expected = generation.TopPLogitsWarper(top_p)(None, expected)
    assert torch.equal(nucleus(scores, top_p, top_k), expected)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'search': 'bean'}, "search must be one of beam, greedy, nucleus, got 'bean'. Did you mean 'beam'"),
        ({'beams': 0}, 'beams must be a whole number of at least 1, got 0'),
        ({'max_length': 1}, 'max_length must be a whole number of at least 2'),
        ({'max_length': True}, 'max_length must be a whole number'),
        ({'min_length': 30}, 'min_length=30 is more than max_length=20'),
        ({'top_p': 0}, 'top_p must be a number above 0 and at most 1, got 0'),
        ({'top_p': float('nan')}, 'top_p must be a number'),
        ({'repetition_penalty': -1.0}, 'repetition_penalty must be a number above 0'),
        ({'prompt': None}, 'prompt must be a text, got None'),
        ({'seed': 1.5}, 'seed must be a whole number'),
    ],
)
def test_rules_that_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        CaptionRules(**options)
