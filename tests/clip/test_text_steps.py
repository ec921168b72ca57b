"""Text towers that read a text step by step, causally."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.hf_text import HFTextTower
from clipdense.clip.sizes import HFTextSize
from clipdense.clip.text import TextTransformer
from clipdense.utils.errors import InputError

SIZE = dict(width=24, layers=2, num_heads=2, mlp_width=48, embed_dim=8, vocab_size=50, context_length=16)
BERT = dict(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=48,
    max_position_embeddings=40,
)
T5 = dict(vocab_size=50, d_model=24, num_layers=2, num_heads=2, d_ff=48, d_kv=12)
NLLB = dict(
    vocab_size=50,
    d_model=24,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
)


def hugging_face(kind, options):
    return HFTextTower(HFTextSize(kind, 24, 'mean_pooler', None, 16, options))


TOWERS = {
    'CLIP': lambda: TextTransformer(SIZE),
    'SigLIP': lambda: TextTransformer(SIZE | {'flavour': 'siglip'}),
    **{
        kind: lambda kind=kind, options=options: hugging_face(kind, options)
        for kind, options in {
            'bert': BERT,
            'roberta': BERT,
            'xlm-roberta': BERT,
            't5': T5,
            'mt5': T5,
            'm2m_100': NLLB,
        }.items()
    },
}


@pytest.fixture(params=TOWERS)
def tower(request):
    torch.manual_seed(0)
    return TOWERS[request.param]().eval()


@torch.no_grad()
def test_a_later_token_changes_no_earlier_one(tower):
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, 6] = (ids[:, 6] + 1) % 40 + 5
    before, after = tower.step(ids)[0], tower.step(changed)[0]
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:], atol=1e-6)


@torch.no_grad()
def test_steps_are_the_whole_text(tower):
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(0))
    past, found = None, []
    for part in ids.split([4, 1, 3, 1], dim=1):
        features, past = tower.step(part, past)
        found.append(features)
    assert_close(torch.cat(found, dim=1), tower.step(ids)[0], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_causal_tower_reads_as_ever():
    tower = TextTransformer(SIZE).eval()
    ids = torch.randint(3, 50, (2, 9))
    assert_close(tower.step(ids)[0], tower.encode_tokens(ids), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('make', 'error', 'message'),
    [
        (lambda: hugging_face('mpnet', BERT), InputError, 'of kind mpnet cannot read a text causally'),
        (lambda: TextTransformer(SIZE | {'flavour': 'coca'}), InputError, 'without a class token'),
        (lambda: TextTransformer(SIZE | {'context_length': 8}), ValueError, 'exceed the context length 8'),
    ],
)
def test_towers_that_cannot(make, error, message):
    with pytest.raises(error, match=message):
        make().step(torch.full((1, 9), 7))
