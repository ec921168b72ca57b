"""GroupViTs change their layout without loss; what no layout can hold is refused."""

from __future__ import annotations

import pytest
import torch

import clipdense
from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.convert import convert
from clipdense.methods.groupvit.checkpoint import save
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize
from clipdense.utils.errors import InputError
from clipdense.vocab.tokenizer import tokenize

pytestmark = pytest.mark.filterwarnings('ignore:.* does not record')
TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
HEADS = {'num_heads': 2, 'text_num_heads': 2}


@pytest.fixture
def groupvit(tmp_path):
    stages = (StageSize(1, 16, 2, 4, 4), StageSize(1, 16, 2))
    model = build_group_vit(GroupVitSize(GroupVitImageSize(16, 4, stages, 8, 12), TEXT)).eval()
    save(model, tmp_path / 'source.safetensors')
    return model, tmp_path / 'source.safetensors'


@pytest.fixture
def clip_file(tmp_path):
    save_clip(build_clip(ClipSize(VitSize(16, 4, 16, 1, 2, 16, 8), TEXT)), tmp_path / 'clip.safetensors')
    return tmp_path / 'clip.safetensors'


@pytest.mark.parametrize(
    ('to', 'name', 'overrides'),
    [('clipdense', 'a.safetensors', {}), ('nvlabs', 'a.safetensors', HEADS), ('huggingface', 'folder', {})],
)
def test_a_groupvit_comes_back(tmp_path, groupvit, to, name, overrides):
    model, source = groupvit
    written = convert(source, tmp_path / name, to)
    assert written.is_file()
    again = clipdense.load(tmp_path / name, **overrides)
    images, words = torch.rand(2, 3, 16, 24), tokenize(['a dog', 'a cat'])
    with torch.no_grad():
        assert torch.equal(again.encode_image(images), model.encode_image(images))
        assert torch.equal(again.encode_text(words), model.encode_text(words))


def test_what_a_layout_does_not_tell_is_said(tmp_path, groupvit):
    """Two heads of width 8 where the released models have one of 64."""
    with pytest.warns(
        UserWarning, match=r'does not record num_heads=\[2, 2\], text_num_heads=2: pass these values'
    ):
        convert(groupvit[1], tmp_path / 'a.safetensors', 'nvlabs')


def test_a_groupvit_is_written_as_safetensors(tmp_path, groupvit):
    with pytest.raises(InputError, match=r'must end in \.safetensors'):
        convert(groupvit[1], tmp_path / 'a.pth', 'nvlabs')


@pytest.mark.parametrize(
    ('source', 'to', 'message'),
    [
        ('groupvit', 'openclip', 'use one of clipdense, huggingface, nvlabs'),
        ('clip_file', 'nvlabs', "layout 'nvlabs' does not support"),
    ],
)
def test_layouts_of_the_other_model(tmp_path, request, source, to, message):
    found = request.getfixturevalue(source)
    path = found[1] if isinstance(found, tuple) else found
    with pytest.raises(InputError, match=message):
        convert(path, tmp_path / 'out', to)


def test_nothing_is_overwritten_unasked(tmp_path, groupvit):
    _, source = groupvit
    target = tmp_path / 'out.safetensors'
    convert(source, target)
    before = target.read_bytes()
    with pytest.raises(InputError, match='exists'):
        convert(source, target, 'nvlabs')
    assert target.read_bytes() == before
    convert(source, target, 'nvlabs', overwrite=True)
    assert target.read_bytes() != before


def test_a_clip_goes_where_clips_go(tmp_path, clip_file):
    written = convert(clip_file, tmp_path / 'open.safetensors', 'openclip')
    overrides = {
        'activation': 'quick_gelu',
        'text_activation': 'quick_gelu',
        'num_heads': 2,
        'text_num_heads': 2,
    }
    assert clipdense.load(written, **overrides).size.image.width == 16
