"""Weights fit, or are refused by name; a CLIP under training takes those of any CLIP."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from clipdense.clip.checkpoint import load, save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.engine.checkpointing import write_checkpoint
from clipdense.engine.model_weights import clip_weights, is_clip_alone, model_meta
from clipdense.utils.errors import CheckpointError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.strict import load_strict

SIZE = ClipSize(VitSize(16, 8, 16, 1, 2, 32, 8), TextSize(16, 1, 2, 32, 8, vocab_size=50, context_length=7))


def state(**changes):
    weights = nn.Linear(2, 2).state_dict()
    return {name: value for name, value in {**weights, **changes}.items() if value is not None}


MISMATCHES = {
    'missing': (state(bias=None), r'1 of 2 tensors match.*1 missing \(bias\)'),
    'unexpected': (state(extra=torch.ones(1)), r'2 of 2 tensors match.*1 unexpected \(extra\)'),
    'shape': (state(bias=torch.ones(3)), r'1 of another shape \(bias is \(3,\), expected \(2,\)\)'),
    'many': (
        state(**{f'x{i}': torch.ones(1) for i in range(14)}),
        r'14 unexpected \(x0, .*x9, \.',
    ),
    'other model': (
        {'a': torch.ones(1)},
        r'file\.pth does not match Linear: none of its tensors match \(they are a\); give',
    ),
    'other sizes': (nn.Linear(3, 3).state_dict(), '0 of 2 tensors match; 2 of another shape'),
    'nothing': ({}, r'0 of 2 tensors match; 2 missing \(weight, bias\)'),
}


@pytest.mark.parametrize(('weights', 'message'), MISMATCHES.values(), ids=MISMATCHES)
def test_strict_loading_names_what_does_not_fit(weights, message):
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    with pytest.raises(CheckpointError, match=message):
        load_strict(model, weights, 'file.pth')
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize('prefix', ['', 'module.', '_orig_mod.', 'module._orig_mod.'])
def test_strict_loading_knows_wrappers(prefix):
    model, weights = nn.Linear(2, 2), state()
    load_strict(model, {prefix + name: value for name, value in weights.items()}, 'file.pth')
    assert torch.equal(model.weight, weights['weight'])


class Trainee(nn.Module):
    def __init__(self, head: bool = False, size: ClipSize = SIZE) -> None:
        super().__init__()
        self.clip = build_clip(size)
        self.vocabulary = Vocabulary(('cat', 'dog'))
        if head:
            self.head = nn.Linear(2, 2)


def test_is_clip_alone():
    assert is_clip_alone(Trainee())
    assert not is_clip_alone(Trainee(head=True))
    assert not is_clip_alone(nn.Linear(2, 2))


def test_weights_of_any_clip_fit_a_clip_under_training(tmp_path):
    other = build_clip(SIZE)
    save(other, tmp_path / 'clip.safetensors')
    model = Trainee()
    load_strict(model, clip_weights(model, str(tmp_path / 'clip.safetensors')), 'clip.safetensors')
    assert torch.equal(model.clip.image.pos_embed, other.image.pos_embed)


def test_another_activation_is_refused(tmp_path):
    save(build_clip(SIZE), tmp_path / 'clip.safetensors')
    gelu = dataclasses.replace(SIZE, image=dataclasses.replace(SIZE.image, activation='gelu'))
    with pytest.raises(CheckpointError, match='quick_gelu'):
        clip_weights(Trainee(size=gelu), str(tmp_path / 'clip.safetensors'))


def test_a_training_checkpoint_is_a_clip(tmp_path):
    """``clipdense.load`` finds size and preprocessing under meta['clip']."""
    model = Trainee()
    path = tmp_path / 'step_1.pth'
    write_checkpoint(path, {'state_dict': model.state_dict(), 'meta': model_meta(model)})
    clip = load(path)
    assert clip.size == SIZE
    assert torch.equal(clip.image.pos_embed, model.clip.image.pos_embed)


def test_meta_names_the_vocabulary():
    meta = model_meta(Trainee())
    assert meta['vocabulary'] == {'class_names': ['cat', 'dog'], 'digest': Vocabulary(('cat', 'dog')).digest}
    assert model_meta(nn.Linear(2, 2)) == {}
