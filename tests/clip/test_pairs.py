"""A CLIP from two places."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from clipdense.clip.checkpoint import load, save
from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.pairs import pair_towers
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.utils.errors import InputError

IMAGE = VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16, context_length=12)
TIMM = dict(model='test_vit', image_size=160, embed_dim=16, projection='linear')


def clip(seed: int = 0, preprocess: str = 'half') -> CLIP:
    torch.manual_seed(seed)
    return build_clip(ClipSize(IMAGE, TEXT), preprocess).eval()


def test_towers_of_two_models(tmp_path):
    one, other = clip(0), clip(1, 'openai')
    save(other, tmp_path / 'other.safetensors')
    pair = pair_towers(one, tmp_path / 'other.safetensors')
    assert_close(pair.image.state_dict(), one.image.state_dict())
    assert_close(pair.text.state_dict(), other.text.state_dict())
    assert pair.preprocess == one.preprocess
    assert pair.logit_scale.exp().item() == pytest.approx(1 / 0.07)  # starts anew
    save(pair, tmp_path / 'pair.safetensors')
    assert_close(load(tmp_path / 'pair.safetensors').state_dict(), pair.state_dict())


def test_a_new_text_tower():
    pair = pair_towers(clip(), asdict(TEXT), logit_bias=-10)
    assert pair.text.size == TEXT
    assert pair.logit_bias.item() == -10
    assert pair.encode_text(pair.tokenizer(['a cat'])).shape == (1, 16)


def test_a_trained_tower_of_timm(tmp_path):
    torch.manual_seed(2)
    trained = timm.create_model('test_vit')
    file = tmp_path / 'test_vit.safetensors'
    save_file(trained.state_dict(), file)
    pair = pair_towers({**TIMM, 'pretrained': str(file)}, asdict(TEXT)).eval()
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = trained.eval().forward_features(images)
        assert_close(pair.image.trunk.forward_features(images), expected)
    assert pair.preprocess.mean == tuple(trained.default_cfg['mean'])
    assert pair.encode_image(images).shape == (2, 16)


@pytest.mark.parametrize(
    ('image', 'text', 'message'),
    [
        (asdict(IMAGE) | {'embed_dim': 24}, asdict(TEXT), 'width 24, the text tower of 16; give the new one'),
        (asdict(IMAGE) | {'pretrained': True}, asdict(TEXT), 'pretrained is for towers of timm'),
        (TIMM | {'pretrained': 'missing.safetensors'}, asdict(TEXT), 'no file missing.safetensors'),
        ({'widht': 3}, asdict(TEXT), 'is not the size of a tower'),
        (asdict(IMAGE), {'width': 3}, 'is not the size of a tower'),
        (asdict(IMAGE), 'missing.safetensors', 'missing.safetensors'),
    ],
)
def test_refusals(image, text, message):
    with pytest.raises(InputError, match=message):
        pair_towers(image, text)


@pytest.mark.parametrize('pool', ['', 'avg'])  # 'avg' has a norm after the pooling, which the weights lack
def test_weights_that_do_not_fit_are_refused(pool, tmp_path):
    file = tmp_path / 'weights.safetensors'
    save_file(timm.create_model('test_vit' if pool else 'test_vit2').state_dict(), file)
    with pytest.raises(InputError, match='no weights for test_vit from timm'):
        pair_towers({**TIMM, 'pool': pool, 'pretrained': str(file)}, asdict(TEXT))
