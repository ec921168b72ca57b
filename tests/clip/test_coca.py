"""The towers of CoCa: the mask of its texts, its pool, and what serves it."""

from __future__ import annotations

import pytest
import torch
from open_clip.coca_model import CoCa
from safetensors.torch import save_file
from torch.testing import assert_close

from clipdense.clip.checkpoint import load
from clipdense.clip.model import CLIP
from clipdense.methods.dense_clip import functions
from clipdense.utils.errors import CheckpointError

VISION = {'image_size': 32, 'layers': 2, 'width': 64, 'patch_size': 8, 'attentional_pool': True}
TEXT = {'context_length': 9, 'vocab_size': 60, 'width': 16, 'heads': 2, 'layers': 2, 'embed_cls': True}
TEXTS = {  # token ids; 0 is padding, and also '!' of OpenAI's vocabulary
    'padded': [[58, 5, 6, 59, 0, 0, 0, 0, 0]],
    'of several lengths': [[58, 5, 59, 0, 0, 0, 0, 0, 0], [58, 9, 8, 7, 6, 5, 4, 59, 0]],
    'full': [[58, 3, 4, 5, 6, 7, 8, 9, 59]],
    'with the id of padding inside': [[58, 5, 0, 6, 59, 0, 0, 0, 0], [58, 0, 0, 6, 7, 59, 0, 0, 0]],
    'shorter than the context': [[58, 5, 59, 0], [58, 4, 5, 59]],
    'empty': [[58, 59, 0, 0, 0, 0, 0, 0, 0]],
    'padding only': [[0] * 9],
}


@pytest.fixture(scope='module')
def theirs():
    torch.manual_seed(0)
    model = CoCa(
        16, {**TEXT, 'embed_cls': False}, {**TEXT, 'output_tokens': True}, {**VISION, 'output_tokens': True}
    )
    for name, parameter in model.named_parameters():
        if name != 'logit_scale':
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope='module')
def file(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp('coca') / 'open_clip_model.safetensors'
    save_file(theirs.state_dict(), path)
    return path


@pytest.fixture(scope='module')
def ours(file) -> CLIP:
    with pytest.warns(UserWarning, match='records no preprocessing'):
        return load(file, activation='gelu', text_num_heads=2)


@pytest.mark.parametrize('ids', TEXTS.values(), ids=TEXTS)
@torch.no_grad()
def test_texts(ids, theirs, ours):
    ids = torch.tensor(ids)
    assert_close(ours.encode_text(ids), theirs.encode_text(ids, normalize=False), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_learned_prompts(ours):
    """Token embeddings in place of token ids give the same."""
    ids = torch.tensor(TEXTS['of several lengths'])
    embeddings, ends = ours.text.token_embed(ids), ids.argmax(dim=1)
    assert_close(ours.encode_prompts(embeddings, ends), ours.encode_text(ids))


def test_no_texts(ours):
    assert ours.encode_text(torch.zeros(0, 9, dtype=torch.int64)).shape == (0, 16)


def test_too_many_tokens(ours):
    with pytest.raises(ValueError, match='10 tokens exceed the context length 9'):
        ours.encode_text(torch.ones(1, 10, dtype=torch.int64))


@torch.no_grad()
def test_dense_is_the_pool_of_one_patch(ours):
    """With one token to attend to, attention pooling is its value path: the identity of ``encode_dense``."""
    tower, tokens = ours.image, torch.randn(2, 16, 64)
    dense = tower.project_patches(tokens, (4, 4)).flatten(2).mT  # (2, 16, D)
    alone = tower.project(tower.pool_tokens(tokens.flatten(0, 1)[:, None]))  # (32, D)
    assert_close(dense.flatten(0, 1), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('size', [(32, 32), (40, 64)])
@pytest.mark.parametrize('method', ['vanilla', 'maskclip'])
def test_methods(method, size, ours):
    assert getattr(functions, method)(ours.image, torch.randn(1, 3, *size)).shape == (
        1,
        16,
        size[0] // 8,
        size[1] // 8,
    )


def test_gradients_reach_every_parameter(ours):
    loss = (
        ours.encode_image(torch.randn(2, 3, 32, 32)).sum()
        + ours.encode_text(torch.tensor(TEXTS['padded'])).sum()
    )
    loss.backward()
    names = [name for name, p in ours.named_parameters() if p.grad is None]
    ours.zero_grad(set_to_none=True)
    assert names == ['logit_scale']


def test_what_a_damaged_file_gives(theirs, tmp_path):
    tensors = dict(theirs.state_dict())
    cases = {
        'visual.attn_pool.ln_q.weight': r'image\.pool\.norm_query',
        'visual.attn_pool.attn.k_proj_weight': 'visual.attn_pool.attn.v_proj_weight exists, but not',
    }
    for name, message in cases.items():
        path = tmp_path / 'damaged.safetensors'
        save_file({key: x for key, x in tensors.items() if key != name}, path)
        with pytest.raises(CheckpointError, match=message):
            load(path, activation='gelu', text_num_heads=2)
