"""Text towers of transformers give what open_clip gives on the same weights."""

from __future__ import annotations

import pytest
import torch
from open_clip.hf_model import HFTextEncoder
from torch.testing import assert_close
from transformers import CONFIG_MAPPING

from clipdense.clip.hf_text import HFTextTower
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, HFTextSize, VitSize
from clipdense.utils.errors import InputError
from clipdense.utils.modules import meta_device

BERT = dict(
    vocab_size=100,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=50,
)
ROBERTA = dict(BERT, type_vocab_size=1, pad_token_id=1)
NLLB = dict(
    vocab_size=100,
    d_model=32,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    max_position_embeddings=64,
    scale_embedding=True,
    pad_token_id=1,
)
SIZES = [
    HFTextSize('roberta', 16, 'mean_pooler', 'mlp', 40, ROBERTA),
    HFTextSize('xlm-roberta', 16, 'mean_pooler', 'mlp', 40, ROBERTA),
    HFTextSize('m2m_100', 16, 'cls_pooler', 'linear', 40, NLLB),
    HFTextSize('bert', 32, 'cls_pooler', None, 40, BERT),
    HFTextSize('bert', 16, 'cls_last_hidden_state_pooler', 'linear', 40, BERT),
]


def token_ids(pad: int) -> torch.Tensor:
    """Four texts: short, long, full, and one with padding inside, as a tokenizer never gives it."""
    ids = torch.randint(3, 100, (4, 20), generator=torch.Generator().manual_seed(0))
    ids[0, 3:], ids[1, 12:], ids[3, 5:7] = pad, pad, pad
    return ids


@pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size.model_type}-{size.pooler}')
@torch.no_grad()
def test_open_clip_gives_the_same(size, tmp_path):
    CONFIG_MAPPING[size.model_type](**size.options).save_pretrained(tmp_path)
    torch.manual_seed(0)
    theirs = HFTextEncoder(
        str(tmp_path), size.embed_dim, pooler_type=size.pooler, proj_type=size.projection, pretrained=False
    ).eval()
    with meta_device():
        ours = HFTextTower(size)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    ours.eval()
    ids = token_ids(theirs.config.pad_token_id)
    assert_close(ours.project(ours(ids)), theirs(ids), atol=1e-5, rtol=1e-5)
    alone = torch.cat([ours.project(ours(row[None])) for row in ids])
    assert_close(alone, theirs(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('size', SIZES, ids=lambda size: f'{size.model_type}-{size.pooler}')
def test_in_a_clip(size):
    image = VitSize(32, 16, 16, 1, 2, 32, size.embed_dim)
    whole = ClipSize(image, size)
    assert ClipSize.from_dict(whole.to_dict()) == whole
    assert (size.width, size.layers, size.vocab_size) == (32, 2, 100)
    clip = build_clip(whole).eval()
    assert clip.encode_text(token_ids(1)).shape == (4, size.embed_dim)


def test_gradient_checkpointing_changes_nothing():
    tower = HFTextTower(SIZES[0])
    gradients = []
    for on in (False, True):
        tower.gradient_checkpointing = on
        tower.eval().zero_grad()
        tower.project(tower(token_ids(1))).square().sum().backward()
        gradients.append(tower.transformer.embeddings.word_embeddings.weight.grad.clone())
    assert_close(*gradients)


@pytest.mark.parametrize(
    ('size', 'message'),
    [
        (HFTextSize('robert', 16, 'mean_pooler', None, 40, ROBERTA), "no model type 'robert'"),
        (
            HFTextSize('roberta', 16, 'mean', None, 40, ROBERTA),
            "unknown pooler 'mean': use one of mean_pooler",
        ),
        (
            HFTextSize('bert', 16, 'cls_pooler', None, 40, BERT),
            'of width 32 has no projection to embed_dim 16',
        ),
    ],
)
def test_refused(size, message):
    with pytest.raises(InputError, match=message):
        HFTextTower(size)


def test_learned_prompts_need_a_tower_of_clip():
    with pytest.raises(InputError, match='need a text tower of CLIP, not a bert'):
        HFTextTower(SIZES[3]).forward_embeddings(torch.zeros(1, 4, 32), torch.tensor([3]))
