"""From one layout to another and back, and what has no counterpart there."""

from __future__ import annotations

import pytest
import torch

from clipdense.clip.checkpoint import convert, load, save
from clipdense.clip.checkpoint.open_clip_models import open_clip_config
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.utils.errors import InputError
from clipdense.weights.io import read_weights

from ..conftest import SIZES, VIT, assert_same_model, make, write


@pytest.mark.parametrize(
    ('kind', 'to', 'name'),
    [
        ('vit', 'openclip', 'file.safetensors'),
        ('vit', 'openclip', 'folder'),
        ('vit', 'huggingface', 'folder'),
        ('resnet', 'openclip', 'folder'),
        ('siglip', 'openclip', 'file.safetensors'),
        ('siglip', 'huggingface', 'folder'),
        ('slip', 'clipdense', 'file.safetensors'),
    ],
)
def test_there_and_back(tmp_path, kind, to, name):
    clip = make(SIZES[kind])
    clip.preprocess = Preprocess(clip.size.image.image_size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 'bilinear')
    save(clip, tmp_path / 'clip.safetensors')
    written = convert(tmp_path / 'clip.safetensors', tmp_path / name, to)
    assert written.is_file()
    known = {} if '.' not in name or to == 'clipdense' else {'activation': clip.size.text.activation}
    back = convert(tmp_path / name, tmp_path / 'back.safetensors', **known)
    found = load(back)
    assert_same_model(found, clip)
    if not known:
        assert found.preprocess == clip.preprocess


def test_dtypes_are_kept(tmp_path, golden_path):
    source = golden_path('openai_clip_vit_tiny_jit.pt')
    written = read_weights(convert(source, tmp_path / 'a.safetensors', 'openclip')).tensors
    for name, tensor in read_weights(source).tensors.items():
        if name not in ('input_resolution', 'context_length', 'vocab_size'):
            assert written[name].dtype == tensor.dtype
            assert torch.equal(written[name], tensor)


IMPOSSIBLE = {
    'ResNet': ('resnet', 'folder', 'huggingface', 'does not support a CLIP with a ResNet'),
    'SLIP to Hugging Face': (
        'slip',
        'folder',
        'huggingface',
        'does not support a CLIP with a SLIP image tower',
    ),
    'SLIP to open_clip': ('slip', 'folder', 'openclip', 'open_clip does not support the image tower of SLIP'),
    'small SigLIP': ('siglip', 'folder', 'openclip', 'timm has no SigLIP tower of width 64'),
    'layout': ('vit', 'folder', 'hugingface', "unknown layout 'hugingface'.* Did you mean 'huggingface'"),
    'suffix': ('vit', 'file.pt', 'clipdense', 'must have the suffix .safetensors'),
    'suffix of open_clip': ('vit', 'file.pt', 'openclip', 'must have the suffix .safetensors'),
    'file for a folder': ('vit', 'file.safetensors', 'huggingface', 'is a folder'),
    'source': ('vit', 'clip.safetensors', 'clipdense', 'is the source file'),
    'exists': ('vit', 'other.safetensors', 'clipdense', 'exists: pass overwrite=True'),
}


@pytest.mark.parametrize('name', IMPOSSIBLE)
def test_what_cannot_be_converted(tmp_path, name):
    kind, destination, to, message = IMPOSSIBLE[name]
    save(make(SIZES[kind]), tmp_path / 'clip.safetensors')
    (tmp_path / 'other.safetensors').write_bytes(b'old')
    with pytest.raises(InputError, match=message):
        convert(tmp_path / 'clip.safetensors', tmp_path / destination, to)
    assert (tmp_path / 'other.safetensors').read_bytes() == b'old'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['clip.safetensors', 'other.safetensors']


def test_overwrite(tmp_path):
    clip = make(VIT)
    save(clip, tmp_path / 'clip.safetensors')
    (tmp_path / 'other.safetensors').write_bytes(b'old')
    convert(tmp_path / 'clip.safetensors', tmp_path / 'other.safetensors', overwrite=True)
    assert_same_model(load(tmp_path / 'other.safetensors'), clip)
    with pytest.raises(InputError, match='source file'):
        convert(tmp_path / 'clip.safetensors', tmp_path / 'clip.safetensors', overwrite=True)


def test_mixed_activations_have_no_open_clip_config(tmp_path):
    path = write(make(VIT), 'openclip_vit', tmp_path / 'weights.safetensors')
    options = {'activation': 'gelu', 'text_activation': 'quick_gelu'}
    with pytest.raises(InputError, match='one activation for both towers'):
        convert(path, tmp_path / 'folder', 'openclip', **options)


@pytest.mark.parametrize(
    ('width', 'hidden'),
    [(1664, 8192), (1408, 6144), (1152, 4304), (64, 96), (48, 97), (112, 115), (768, 3072)],
)
def test_odd_ratios_survive_rounding(width, hidden):
    """open_clip computes the width of the MLP as ``int(width * mlp_ratio)``."""
    text = TextSize(width, 1, 1, hidden, 32, 50, 12, 'gelu')
    config = open_clip_config(ClipSize(VitSize(16, 4, width, 1, 1, hidden, 32, 'gelu'), text))
    for tower in ('vision_cfg', 'text_cfg'):
        assert int(width * config[tower]['mlp_ratio']) == hidden
