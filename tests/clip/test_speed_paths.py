"""What is left out of the work leaves no trace: fast paths against the plain ones, outputs and gradients.

Everything in float64, so that the tolerance of 1e-10 leaves no room for anything but the order of sums.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize

TEXT = TextSize(32, 3, 2, 64, 16, vocab_size=64, context_length=20)
SIGLIP_TEXT = TextSize(32, 3, 2, 64, 16, vocab_size=64, context_length=8, flavour='siglip')
END = 63

TOWERS = {
    'openai': VitSize(32, 8, 32, 3, 2, 64, 16),
    'slip': VitSize(32, 8, 32, 3, 2, 64, 16, 'gelu', 'slip'),
    'siglip': VitSize(32, 8, 32, 3, 2, 64, 16, 'gelu_tanh', 'siglip'),
    'one block': VitSize(32, 8, 32, 1, 2, 64, 16),
    'resnet': ResNetSize(64, 4, (1, 1, 1, 1), 2, 16),
}
LENGTHS = {
    'mixed': [3, 20, 2, 9],
    'equal': [5, 5, 5],
    'one': [7],
    'shortest': [2],
    'whole context': [20, 20],
}


def model(image: str = 'openai', text: TextSize = TEXT) -> CLIP:
    width = 32 if image == 'siglip' else 16  # SigLIP's tower has no projection
    size = ClipSize(replace(TOWERS[image], embed_dim=width), replace(text, embed_dim=width))
    return build_clip(size).double()


def texts(lengths: list[int], context: int = 20) -> Tensor:
    """Ids whose end-of-text is the last of so many tokens, and noise behind it."""
    ids = torch.randint(1, END - 1, (len(lengths), context))
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1] = END
    return ids


def gradients(module: nn.Module, output: Tensor, weight: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    (output * weight).sum().backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def assert_same(module: nn.Module, fast: Tensor, plain: Tensor) -> None:
    """Equal outputs, and equal gradients of every parameter, for a random direction of the output."""
    assert_close(fast, plain, atol=1e-10, rtol=0)
    weight = torch.randn_like(plain)
    ours, theirs = gradients(module, fast, weight), gradients(module, plain, weight)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert_close(
            ours[name], gradient, atol=1e-10, rtol=1e-10, msg=lambda text, name=name: f'{name}: {text}'
        )


def plain_text(clip: CLIP, ids: Tensor) -> Tensor:
    """The text tower as the paper has it: all places, all tokens, then one is picked."""
    tower = clip.text
    x = tower.token_embed(ids) + tower.pos_embed[: ids.shape[1]]
    for block in tower.blocks:
        attended = attention(block.attn, block.norm1(x), tower.flavour.causal)
        x = x + attended
        x = x + block.mlp(block.norm2(x))
    place = ids.argmax(dim=-1) if tower.flavour.causal else torch.full((len(ids),), ids.shape[1] - 1)
    return tower.project(tower.norm_post(x)[torch.arange(len(ids)), place])


def attention(attn: nn.Module, x: Tensor, causal: bool) -> Tensor:
    """Softmax attention written out."""
    query, key, value = attn.split(x)
    scores = query @ key.mT / query.shape[-1] ** 0.5
    if causal:
        scores = scores + torch.full(scores.shape[-2:], float('-inf'), dtype=x.dtype).triu(1)
    return attn.merge(scores.softmax(-1) @ value)


@pytest.mark.parametrize('size', [(32, 32), (64, 40)], ids=['own size', 'other size'])
@pytest.mark.parametrize('tower', TOWERS)
def test_image_embedding_without_the_last_patches(tower, size):
    clip = model(tower).eval()
    images = torch.randn(3, 3, *size).double()
    assert_same(clip.image, clip.encode_image(images), clip.image.project(clip.image(images).pooled))


@pytest.mark.parametrize('tower', ['openai', 'siglip', 'resnet'])
def test_image_embedding_under_gradient_checkpointing(tower):
    clip = model(tower).eval()
    images = torch.randn(2, 3, 64, 64).double()
    plain = clip.encode_image(images)
    clip.set_gradient_checkpointing()
    assert_same(clip.image, clip.encode_image(images), plain)


@pytest.mark.parametrize('what', ['patch_dropout', 'drop_path'])
def test_image_embedding_with_random_parts(what):
    """The last block is computed for the class token only, with the random numbers of the whole."""
    clip = model().train()
    clip.image.patch_dropout = 0.5 if what == 'patch_dropout' else 0.0
    clip.image.set_drop_path(0.5 if what == 'drop_path' else 0.0)
    images = torch.randn(2, 3, 32, 32).double()
    torch.manual_seed(1)
    fast = clip.encode_image(images)
    torch.manual_seed(1)
    assert_same(clip.image, fast, clip.image.project(clip.image(images).pooled))


@pytest.mark.parametrize('checkpointing', [False, True], ids=['plain', 'checkpointing'])
@pytest.mark.parametrize('lengths', LENGTHS.values(), ids=LENGTHS)
def test_packed_texts(lengths, checkpointing):
    clip, ids = model(), texts(lengths)
    clip.set_gradient_checkpointing(checkpointing)
    assert_same(clip.text, clip.encode_text(ids), plain_text(clip, ids))


def test_texts_of_a_tower_that_is_not_causal():
    clip, ids = model('siglip', SIGLIP_TEXT), texts([3, 8, 5], context=8)
    assert_same(clip.text, clip.encode_text(ids), plain_text(clip, ids))


@pytest.mark.parametrize('deep', [False, True], ids=['shallow', 'deep'])
def test_learned_prompts_of_different_lengths(deep):
    """Prompts in one batch give what they give alone, where nothing can be packed."""
    clip, ids = model(), texts([6, 20, 9])
    eot, embeddings = ids.argmax(dim=-1), clip.text.token_embed(ids).detach()
    extra = [torch.randn(3, 32).double() for _ in range(2)] if deep else None
    together = clip.encode_prompts(embeddings, eot, extra)
    alone = [
        clip.encode_prompts(embeddings[i : i + 1, : eot[i] + 1], eot[i : i + 1], extra) for i in range(3)
    ]
    assert_same(clip.text, together, torch.cat(alone))


def test_no_texts_give_no_embeddings():
    assert model().encode_text(torch.empty(0, 20, dtype=torch.long)).shape == (0, 16)


def test_the_work_is_left_out():
    """The last feed-forward sees one token an image and one a text; the first, no padding."""
    clip, seen = model(), {}
    for name in ('image.blocks.0.mlp', 'image.blocks.2.mlp', 'text.blocks.0.mlp', 'text.blocks.2.mlp'):
        clip.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: tuple(inputs[0].shape)})
        )
    clip(torch.randn(2, 3, 32, 32).double(), texts([3, 8, 5]))
    assert seen == {
        'image.blocks.0.mlp': (2, 17, 32),
        'image.blocks.2.mlp': (2, 32),
        'text.blocks.0.mlp': (16, 32),
        'text.blocks.2.mlp': (3, 32),
    }
