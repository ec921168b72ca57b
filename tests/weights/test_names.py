"""Wrappers in names of tensors."""

from __future__ import annotations

import pytest
import torch

from clipdense.utils.errors import CheckpointError
from clipdense.weights.io import read_weights
from clipdense.weights.names import unwrapped_names
from clipdense.weights.strict import load_strict

WRAPPED = {
    'bare': ['a.weight', 'b.bias'],
    'module.': ['module.a.weight', 'module.b.bias'],
    'twice': ['module.module.a.weight', 'module.module.b.bias'],
    '_orig_mod.': ['_orig_mod.a.weight', '_orig_mod.b.bias'],
    'compiled and parallel': ['_orig_mod.module.a.weight', '_orig_mod.module.b.bias'],
    'parallel and compiled': ['module._orig_mod.a.weight', 'module._orig_mod.b.bias'],
    'a compiled part': ['a._orig_mod.weight', 'b.bias'],
    'a parallel part': ['a.module.weight', 'b.bias'],
    'checkpointed': ['a._checkpoint_wrapped_module.weight', 'b._checkpoint_wrapped_module.bias'],
    'sharded': ['_fsdp_wrapped_module.a._fsdp_wrapped_module.weight', '_fsdp_wrapped_module.b.bias'],
    'all': ['module._orig_mod.a._checkpoint_wrapped_module.module.weight', 'module._orig_mod.b.bias'],
    'averaged': ['n_averaged', 'module.a.weight', 'module.b.bias'],
    'averaged by MMEngine': ['steps', 'module.a.weight', 'module.b.bias'],
}


@pytest.mark.parametrize('wrapper', WRAPPED)
def test_wrappers_are_removed(tmp_path, wrapper):
    assert list(unwrapped_names(WRAPPED[wrapper]).values()) == WRAPPED['bare']
    torch.save({name: torch.ones(2) for name in WRAPPED[wrapper]}, tmp_path / 'x.pt')
    assert list(read_weights(tmp_path / 'x.pt').tensors) == WRAPPED['bare']


@pytest.mark.parametrize(
    'names', [['module.a', 'b'], ['modules.a', 'modules.b'], ['my_module.a', 'x_orig_mod.b'], ['steps', 'a']]
)
def test_other_names_stay(names):
    assert list(unwrapped_names(names).values()) == names


def test_two_of_one_name(tmp_path):
    torch.save({'a._orig_mod.b': torch.ones(1), 'a.b': torch.zeros(1)}, tmp_path / 'x.pt')
    with pytest.raises(
        CheckpointError, match=r'x.pt: the tensors a._orig_mod.b and a.b have the same name a.b'
    ):
        read_weights(tmp_path / 'x.pt')


def test_a_wrapped_model_takes_plain_weights():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2))
    wrapped = torch.nn.DataParallel(model)
    load_strict(wrapped, {'0.weight': torch.ones(2, 2), '0.bias': torch.ones(2)}, 'file')
    assert model[0].weight.sum() == 4
    load_strict(wrapped, {'module.0.weight': torch.zeros(2, 2), 'module.0.bias': torch.ones(2)}, 'file')
    assert model[0].weight.sum() == 0
