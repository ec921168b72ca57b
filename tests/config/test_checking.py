"""Mistakes in the values of a config: one line with the full name of the entry, before training starts."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from torch.optim import SGD

from clipdense.config import check_parts, load_config
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.data.transforms import SquareCrop
from clipdense.engine import EvaluationHook, WarmupCosine
from clipdense.utils.errors import InputError

SHARDS = {'type': ImageTextShards, 'urls': 'x.tar'}
PARTS = {
    'word for a number': (
        {'type': WarmupCosine, 'warmup': 'abc'},
        "p.warmup must be a whole number, got 'abc'",
    ),
    'part of a number': ({'type': WarmupCosine, 'warmup': 2.5}, 'p.warmup must be a whole number, got 2.5'),
    'NaN': ({'type': WarmupCosine, 'warmup': 1, 'final': float('nan')}, 'p.final must be a number, got nan'),
    'true for a number': ({**SHARDS, 'shuffle': True}, 'p.shuffle must be a whole number, got True'),
    'number for true': ({**SHARDS, 'resampled': 1}, 'p.resampled must be true or false, got 1'),
    'one of two': ({'type': SGD, 'lr': 'x'}, "p.lr must be a number .*got 'x'"),
    'inside': (
        {**SHARDS, 'transform': {'type': SquareCrop, 'size': 'a'}},
        "p.transform.size must .* got 'a'",
    ),
    'in a list': ([{'type': SquareCrop, 'size': []}], r'p\.0\.size must be a whole number, got \[\]'),
    'unknown argument': (
        {**SHARDS, 'shufle': 3},
        "p.shufle: ImageTextShards has no .* Did you mean 'shuffle'",
    ),
    'what it takes': ({'type': SquareCrop, 'x': 3}, 'p.x: SquareCrop has no option .x.; .* size'),
    'missing argument': ({'type': ImageTextShards}, 'p.urls is missing: ImageTextShards needs urls'),
    'unknown class': ({'type': 'ImageTextShard'}, "p.type: no class .* Did you mean 'ImageTextShards'"),
    'no class': ({'type': 3}, 'p.type must be a class, or the name of one, got 3'),
    'no module': ({'type': 'absent.Model'}, "p.type: there is no 'absent.Model'"),
    'hook': ({'type': EvaluationHook, 'evaluations': 'x'}, "p.evaluations must be .* got 'x'"),
}


@pytest.mark.parametrize(('part', 'message'), PARTS.values(), ids=PARTS)
def test_a_part_that_does_not_fit_its_class(part, message):
    with pytest.raises(InputError, match=message) as error:
        check_parts({'p': part})
    assert '\n' not in str(error.value)


FIT = {
    'whole float': {'type': WarmupCosine, 'warmup': 1e3},
    'text for a path': {**SHARDS, 'urls': ['a.tar', 'b.tar'], 'caption': ('txt', 'json:a')},
    'given later': {'type': WarmupCosine, 'warmup': 3},
    'layers by name': {'type': 'BN', 'requires_grad': True},
    'object': {**SHARDS, 'transform': SquareCrop(32)},
}


@pytest.mark.parametrize('part', FIT.values(), ids=FIT)
def test_what_fits(part):
    check_parts(Config({'p': part}))


@pytest.mark.parametrize(
    'name', ['contrastive/clip_scenes', 'lseg/lseg_scenes', 'vild/vild_lvis', 'vild_bccd']
)
def test_configs_of_ours_pass(name):
    check_parts(load_config(name))
