"""Weights that are loaded and saved: equal outputs, equal models, dtypes and devices."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipdense.clip.checkpoint import describe, load, save
from clipdense.clip.preprocess import Preprocess
from clipdense.utils.errors import CheckpointError, InputError

from ..conftest import RESNET, SIZES, VIT, assert_same_model, assert_same_outputs, make, write

# Official outputs


@pytest.mark.parametrize('name', ['openai_clip_vit_tiny', 'openai_clip_rn_tiny'])
@pytest.mark.parametrize('suffix', ['safetensors', 'pt'])
def test_openai_outputs(golden, tmp_path, name, suffix):
    tensors, _ = golden(name)
    state = {key.removeprefix('state.'): value for key, value in tensors.items() if key.startswith('state.')}
    path = tmp_path / f'weights.{suffix}'
    if suffix == 'pt':
        torch.save({'state_dict': {f'module.{key}': value for key, value in state.items()}, 'epoch': 1}, path)
    else:
        save_file(state, path)
    clip = load(path, activation='quick_gelu')
    assert not clip.training
    assert_same_outputs(
        clip,
        tensors['output.image_features'],
        tensors['output.text_features'],
        tensors['input.image'],
        tensors['input.text'],
    )


def test_openai_archive(golden, golden_path):
    tensors, _ = golden('openai_clip_vit_tiny_jit')
    clip = load(golden_path('openai_clip_vit_tiny_jit.pt'))
    assert clip.size.image.activation == clip.size.text.activation == 'quick_gelu'
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}
    assert_same_outputs(
        clip,
        tensors['output.image_features'],
        tensors['output.text_features'],
        tensors['input.image'],
        tensors['input.text'],
    )
    with pytest.raises(CheckpointError, match="OpenAI's archive records activation='quick_gelu'; remove"):
        load(golden_path('openai_clip_vit_tiny_jit.pt'), activation='gelu')


# Our own format


@pytest.mark.parametrize('kind', SIZES)
def test_saved_and_loaded(tmp_path, kind):
    clip = make(SIZES[kind])
    clip.preprocess = Preprocess(20, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 'bilinear', 'squash')
    save(clip, tmp_path / 'clip.safetensors')
    found = load(tmp_path / 'clip.safetensors')
    assert_same_model(found, clip)
    assert found.preprocess == clip.preprocess
    assert found.preprocess(Image.new('RGB', (40, 30))).shape == (3, 20, 20)
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in found.parameters())


def test_training_checkpoint(tmp_path):
    clip = make(VIT)
    state = {f'clip.{name}': tensor for name, tensor in clip.state_dict().items()}
    state['head.weight'] = torch.zeros(2)
    meta = {'seed': 1, 'clip': describe(clip.size, clip.preprocess)}
    torch.save({'state_dict': state, 'optimizer': {'state': {}}, 'meta': meta}, tmp_path / 'best.pth')
    assert_same_model(load(tmp_path / 'best.pth'), clip)


@pytest.mark.parametrize('option', [{'activation': 'quick_gelu'}, {'num_heads': 2}, {'text_num_heads': 2}])
def test_own_record_is_not_overridden(tmp_path, option):
    save(make(VIT), tmp_path / 'clip.safetensors')
    with pytest.raises(CheckpointError, match='the file itself records'):
        load(tmp_path / 'clip.safetensors', **option)


def test_loading_leaves_the_file_alone(tmp_path):
    save(make(VIT), tmp_path / 'clip.safetensors')
    before = (tmp_path / 'clip.safetensors').read_bytes()
    clip = load(tmp_path / 'clip.safetensors')
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.zero_()
    assert (tmp_path / 'clip.safetensors').read_bytes() == before


@pytest.mark.parametrize('suffix', ['safetensors', 'pt'])
def test_a_file_that_changes_leaves_the_model_alone(tmp_path, suffix):
    path = tmp_path / f'clip.{suffix}'
    save(make(VIT), tmp_path / 'clip.safetensors')
    if suffix == 'pt':
        clip = make(VIT)
        own = {'clip': describe(clip.size, clip.preprocess)}
        torch.save({'state_dict': clip.state_dict(), 'meta': own}, path)
    clip = load(path)
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    with open(path, 'r+b') as file:
        file.write(bytes(path.stat().st_size))
    for name, tensor in clip.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_files_become_single(tmp_path, dtype):
    clip = make(RESNET)
    path = write(clip.to(dtype), 'openclip_resnet', tmp_path / 'half.safetensors')
    found = load(path, activation='gelu')
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.float32, torch.int64}
    assert load(path, activation='gelu', dtype=torch.bfloat16).image.conv1.weight.dtype == torch.bfloat16
    found.encode_image(torch.randn(1, 3, 64, 64))


def test_missing_device(tmp_path):
    if torch.cuda.is_available():
        pytest.skip('has a GPU')
    save(make(VIT), tmp_path / 'clip.safetensors')
    with pytest.raises(InputError, match=r"device 'cuda' is not available .*: try device='cpu'"):
        load(tmp_path / 'clip.safetensors', device='cuda')
