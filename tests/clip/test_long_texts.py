"""Longer texts for a trained text tower."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.long_texts import stretch_context, stretch_positions
from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.utils.errors import InputError

IMAGE = VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16, context_length=12)
SHORT, LONG = 'a red car', ' '.join(['a red car on the road'] * 4)


def clip(**options) -> CLIP:
    torch.manual_seed(0)
    return build_clip(ClipSize(IMAGE, TEXT, **options)).eval()


@pytest.mark.parametrize('length', [64, 128])
def test_all_positions_stretched_are_open_clips(golden, length):
    tensors, _ = golden('clip_aux')
    stretched = stretch_positions(tensors['input.text_pos_embed_77'], length, keep=0)
    assert_close(stretched, tensors[f'output.text_pos_embed_{length}'], atol=1e-5, rtol=0)


def test_the_first_positions_are_kept():
    positions = torch.tensor([[0.0], [1.0], [5.0], [7.0], [100.0]])
    stretched = stretch_positions(positions, 6, keep=2, last=1).flatten().tolist()
    assert stretched == [0, 1, 5, 5.5, 6.5, 7, 100]  # two rows as four, half a step from the ends


def test_short_texts_keep_their_embeddings_and_long_ones_fit():
    old = clip(logit_bias=True)
    new = stretch_context(old, length=30, keep=8)
    with torch.no_grad():
        assert_close(new.encode_text(new.tokenizer([SHORT])), old.encode_text(old.tokenizer([SHORT])))
        images = torch.randn(2, 3, 16, 16)
        assert_close(new.encode_image(images), old.encode_image(images))
    assert new.tokenizer([LONG]).shape == (1, 30)
    assert new.encode_text(new.tokenizer([LONG])).shape == (1, 16)
    assert (new.size.text.context_length, old.size.text.context_length) == (30, 12)
    assert [new.logit_scale.item(), new.logit_bias.item()] == [old.logit_scale.item(), old.logit_bias.item()]
    assert not new.training


def test_a_stretched_model_is_saved_and_loaded(tmp_path):
    from clipdense.clip.checkpoint import load, save

    new = stretch_context(clip(), length=30, keep=8)
    save(new, tmp_path / 'long.safetensors')
    loaded = load(tmp_path / 'long.safetensors')
    assert_close(loaded.state_dict(), new.state_dict())
    assert loaded.tokenizer([LONG]).shape == (1, 30)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'length': 12}, 'more than the 12 tokens'),
        ({'length': 30, 'keep': 12}, r'keep must be in 0 \.\. 11, got 12'),
        ({'length': 30, 'keep': -1}, 'keep must be in'),
    ],
)
def test_lengths_that_stretch_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        stretch_context(clip(), **options)


def test_another_tokenizer_is_refused():
    other = build_clip(ClipSize(IMAGE, TEXT), tokenizer=lambda texts: texts)
    with pytest.raises(InputError, match='need the text transformer and the tokenizer of OpenAI'):
        stretch_context(other)
