"""Towers against official outputs, and what holds for every size."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.checkpoint.layouts import to_ours
from clipdense.clip.losses import contrastive_loss
from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.sizes import PUBLISHED, ClipSize, ResNetSize, TextSize, VitSize
from clipdense.clip.text import arrange_tokens
from clipdense.utils.errors import InputError

TEXT = TextSize(width=64, layers=2, num_heads=1, mlp_width=256, embed_dim=32, vocab_size=512)
VIT = VitSize(image_size=32, patch_size=8, width=64, layers=2, num_heads=1, mlp_width=256, embed_dim=32)
RESNET = ResNetSize(image_size=64, width=16, layers=(1, 1, 1, 1), num_heads=8, embed_dim=32)
SIGLIP = ClipSize(
    VitSize(32, 8, 64, 2, 1, 256, 64, 'gelu', 'siglip'),
    TextSize(64, 2, 1, 256, 64, 50, 16, 'gelu', 'siglip'),
    logit_bias=True,
)
SIZES = {'vit': ClipSize(VIT, TEXT), 'rn': ClipSize(RESNET, TEXT)}
LAYOUT = {'vit': 'openclip_vit', 'rn': 'openclip_resnet'}
TOLERANCE = {'atol': 1e-5, 'rtol': 0}


@pytest.fixture(params=['vit', 'rn'])
def official(request, golden):
    """A model with the official weights, and what the official code computes with them."""
    tensors, _ = golden(f'openai_clip_{request.param}_tiny')
    model = build_clip(SIZES[request.param]).eval()
    state = {key.removeprefix('state.'): value for key, value in tensors.items() if key.startswith('state.')}
    model.load_state_dict(to_ours(state, LAYOUT[request.param])[0])
    return model, tensors


def test_embeddings_match_the_official_ones(official):
    model, golden = official
    assert_close(model.encode_image(golden['input.image']), golden['output.image_features'], **TOLERANCE)
    assert_close(model.encode_text(golden['input.text']), golden['output.text_features'], **TOLERANCE)


def test_logits_and_gradients_match_the_official_ones(official):
    model, golden = official
    images, texts = model(golden['input.image'], golden['input.text'])
    logits = model.logit_scale.exp() * images @ texts.mT
    assert_close(logits, golden['output.logits_per_image'], atol=2e-5, rtol=0)

    loss = contrastive_loss(images, texts[:3], model.logit_scale.exp())
    assert_close(loss, golden['output.loss'][0], **TOLERANCE)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected = {key.removeprefix('grad.'): value for key, value in golden.items() if key.startswith('grad.')}
    assert len(expected) >= 9
    kind = 'vit' if isinstance(model.image.size, VitSize) else 'rn'
    for name, value in to_ours(expected, LAYOUT[kind])[0].items():
        assert_close(gradients[name], value, **TOLERANCE)


def test_intermediate_activations_match(golden):
    tensors, _ = golden('openai_clip_vit_tiny')
    model = build_clip(SIZES['vit']).eval()
    state = {key.removeprefix('state.'): value for key, value in tensors.items() if key.startswith('state.')}
    model.load_state_dict(to_ours(state, 'openclip_vit')[0])
    layers, grid = model.image.forward_layers(tensors['input.image'], [0, 1, 2])
    assert grid == (4, 4)
    assert_close(layers[0], tensors['act.visual.ln_pre'], **TOLERANCE)
    assert_close(layers[1], tensors['act.visual.block0'], **TOLERANCE)
    assert_close(layers[2], tensors['act.visual.transformer'], **TOLERANCE)
    features = model.image(tensors['input.image'])
    assert_close(features.pooled, tensors['act.visual.ln_post_cls'], **TOLERANCE)
    assert_close(features.patch_tokens, tensors['act.visual.transformer'][:, 1:], **TOLERANCE)


@pytest.mark.parametrize('kind', SIZES)
@pytest.mark.parametrize(('height', 'width'), [(64, 64), (96, 64), (75, 131)])
def test_any_image_size(kind, height, width):
    model = build_clip(SIZES[kind]).eval()
    features = model.image(torch.randn(2, 3, height, width))
    cell = 8 if kind == 'vit' else 32
    rows, columns = (height // cell, width // cell) if kind == 'vit' else (-(-height // 32), -(-width // 32))
    if kind == 'rn':  # convolutions round up where pools round down
        rows, columns = features.grid
    assert features.grid == (rows, columns)
    assert features.patch_tokens.shape[1] == rows * columns
    patches = model.image.project_patches(features.patch_tokens, features.grid)
    assert patches.shape == (2, 32, rows, columns)


@pytest.mark.parametrize('kind', SIZES)
def test_images_smaller_than_a_cell_are_refused(kind):
    with pytest.raises(ValueError, match=r'(too small: at least 32 x 32|smaller than a patch)'):
        build_clip(SIZES[kind]).encode_image(torch.randn(1, 3, 7, 40))


def test_text_is_trimmed_without_a_trace():
    """What stands behind the end of text changes nothing, and is not computed."""
    model = build_clip(SIZES['vit']).eval()
    ids = torch.zeros(3, 77, dtype=torch.long)
    for row, length in enumerate([2, 5, 9]):
        ids[row, : length - 1] = torch.randint(1, 500, (length - 1,))
        ids[row, length - 1] = 511
    trimmed, whole = model.encode_text(ids[:, :9]), model.encode_text(ids)
    assert torch.equal(trimmed, whole)
    alone = torch.cat([model.encode_text(ids[row : row + 1]) for row in range(3)])
    assert_close(alone, whole, **TOLERANCE)


@pytest.mark.parametrize('kind', SIZES)
def test_gradient_checkpointing_changes_nothing(kind):
    model = build_clip(SIZES[kind]).train()
    images, ids = torch.randn(2, 3, 64, 64), torch.randint(0, 512, (2, 12))
    results = []
    for on in (False, True):
        model.load_state_dict(
            state := {k: v.clone() for k, v in (results[0][1] if results else model.state_dict()).items()}
        )
        model.set_gradient_checkpointing(on)
        model.zero_grad()
        first, second = model(images, ids)
        contrastive_loss(first, second, 10.0).backward()
        gradients = {
            name: parameter.grad.clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        results.append((gradients, state, buffers))
    assert_close(results[0][0], results[1][0])
    assert_close(results[0][2], results[1][2])  # batch-norm statistics count the batch once


def test_patch_dropout_drops_in_training_only():
    model = build_clip(SIZES['vit'], patch_dropout=0.5)
    images = torch.randn(2, 3, 32, 32)
    assert model.image.train()(images).patch_tokens.shape == (2, 8, 64)
    assert model.image.eval()(images).patch_tokens.shape == (2, 16, 64)


def test_stochastic_depth_in_training_only():
    torch.manual_seed(0)
    model, images = build_clip(SIZES['vit'], drop_path=0.4), torch.randn(8, 3, 32, 32)
    rates = [block.drop_path for block in model.image.blocks]
    assert rates == pytest.approx([0.4 * index / (len(rates) - 1) for index in range(len(rates))])
    plain = build_clip(SIZES['vit'])
    plain.load_state_dict(model.state_dict())
    expected = plain.encode_image(images)
    assert torch.equal(model.eval().encode_image(images), expected)
    assert not torch.allclose(model.train().encode_image(images), expected)
    assert model.image.config['drop_path'] == 0.4


def test_learned_prompts_equal_token_ids():
    model = build_clip(SIZES['vit']).eval()
    ids = torch.randint(1, 500, (3, 10))
    ids[:, 6] = 511
    embeddings = model.text.token_embed(ids)
    eot = torch.full((3,), 6)
    assert_close(model.encode_prompts(embeddings, eot), model.encode_text(ids))
    deep = [torch.randn(2, 64)]
    assert not torch.allclose(model.encode_prompts(embeddings, eot, deep), model.encode_text(ids), atol=1e-3)


def test_prompts_stand_before_the_patches():
    tower = build_clip(SIZES['vit']).eval().image
    images = torch.randn(1, 3, 32, 32)
    plain, _ = tower.forward_layers(images, [-1])
    prompts = [torch.randn(2, 64), torch.randn(2, 64)]
    with tower.prompted(prompts):
        layers, _ = tower.forward_layers(images, [0, 1, 2])
        features, pooled = tower(images), tower.pooled(images)
    assert [layers[at].shape[1] for at in (0, 1, 2)] == [19, 19, 19]
    assert_close(layers[0][0, 1:3], tower.norm_pre(prompts[0]))
    assert torch.equal(layers[1][0, 1:3], prompts[1])
    assert_close(features.patch_tokens, layers[2][:, 3:])
    assert_close(pooled, features.pooled)
    assert tower.prefix == 1
    assert torch.equal(plain[-1], tower.forward_layers(images, [1])[0][1])


@pytest.mark.parametrize(
    'prompts',
    [
        [torch.zeros(2, 64)] * 3,
        [torch.zeros(2, 32)],
        [torch.zeros(2, 64), torch.zeros(3, 64)],
        [torch.zeros(64)],
    ],
)
def test_prompts_that_do_not_fit(prompts):
    tower = build_clip(SIZES['vit']).image
    with pytest.raises(InputError, match='image prompts'), tower.prompted(prompts):
        pass


def test_logit_scale_is_clamped_to_its_range():
    model = build_clip(SIZES['vit'])
    for value, expected in [(9.0, 4.6052), (-1.0, 0.0), (2.0, 2.0)]:
        model.logit_scale.data.fill_(value)
        model.clamp_logit_scale()
        assert model.logit_scale.item() == pytest.approx(expected, abs=1e-4)


# image/total parameters as published, see the model table of openai/CLIP
@pytest.mark.parametrize(
    ('name', 'total'),
    [
        ('RN50', 102_007_137),
        ('RN101', 119_688_033),
        ('RN50x4', 178_300_601),
        ('RN50x16', 290_979_217),
        ('RN50x64', 623_258_305),
        ('ViT-B-32', 151_277_313),
        ('ViT-B-16', 149_620_737),
        ('ViT-L-14', 427_616_513),
        ('ViT-L-14-336', 427_944_193),
        ('ViT-bigG-14', 2_539_567_105),
    ],
)
def test_published_sizes(name, total):
    with torch.device('meta'):
        model = build_clip(name)
    assert sum(parameter.numel() for parameter in model.parameters()) == total


@pytest.mark.parametrize('name', PUBLISHED)
def test_sizes_survive_json(name):
    import json

    size = PUBLISHED[name]
    assert ClipSize.from_dict(json.loads(json.dumps(size.to_dict()))) == size


def test_a_model_knows_its_size():
    assert build_clip(SIZES['rn'].to_dict()).size == SIZES['rn']


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: build_clip('ViT-B-61'), "Did you mean 'ViT-B-16'"),
        (lambda: ClipSize(VIT, TextSize(64, 2, 1, 256, 48)), 'have different embed_dim: image 32, text 48'),
        (lambda: build_clip(SIZES['vit'], patch_dropout=1.0), 'must be a fraction in'),
        (lambda: build_clip(SIZES['vit'], drop_path=1.0), 'drop_path must be at least 0 and below 1'),
        (lambda: build_clip(SIZES['vit']).image.forward_layers(torch.randn(1, 3, 32, 32), [3]), 'layer 3'),
        (
            lambda: build_clip(SIZES['vit']).encode_text(
                torch.full((1, 78), 3).index_fill(1, torch.tensor([77]), 9)
            ),
            '78 tokens',
        ),
    ],
    ids=[
        'unknown name',
        'towers that do not meet',
        'all patches dropped',
        'all branches dropped',
        'no such layer',
        'too many tokens',
    ],
)
def test_refusals(call, message):
    with pytest.raises((InputError, ValueError, IndexError), match=message):
        call()


def test_parts_may_be_configs():
    from clipdense.clip.vit import VisionTransformer

    model = CLIP(dict(type=VisionTransformer, size=VIT), dict(type='TextTransformer', size=TEXT))
    assert model.size == SIZES['vit']


@pytest.mark.parametrize('kind', ['vit', 'siglip', 'rn'])
def test_dense_embeddings_of_every_kind_of_tower(kind):
    sizes = {**SIZES, 'siglip': SIGLIP}
    model = build_clip(sizes[kind]).eval()
    tower, images = model.visual, torch.randn(2, 3, 64, 96)
    assert tower is model.image
    with torch.no_grad():
        dense = model.encode_dense(images)
        if kind == 'rn':
            features = tower(images)
            values = tower.attn_pool.proj(tower.attn_pool.v(features.patch_tokens))  # (B, N, D)
        else:
            block = tower.blocks[-1]
            inputs, grid = tower.forward_layers(images, [-1])
            attended = block.attn.proj(block.attn.qkv(block.norm1(inputs[-1])).chunk(3, dim=-1)[2])
            values = tower.project_patches(attended[:, tower.prefix :], grid).flatten(2).mT
    assert dense.shape[:2] == (2, model.embed_dim)
    assert_close(dense.flatten(2).mT, values, **TOLERANCE)
    unit = model.encode_dense(images, normalize=True)
    assert_close(unit.norm(dim=1), torch.ones_like(unit[:, 0]))


def test_tokens_are_tensors():
    """The idiom of open_clip: what the tokenizer returns goes into the text tower."""
    model = build_clip(ClipSize(SIZES['vit'].image, TextSize(64, 1, 1, 64, 32)))
    ids = model.tokenizer(['a cat', 'a photo of a dog'])
    assert ids.dtype == torch.int64
    assert ids.shape == (2, 77)
    assert model.encode_text(ids).shape == (2, 32)
    assert model.tokenizer.decode(ids[1, 1:6]).strip() == 'a photo of a dog'
    again = pickle.loads(pickle.dumps(model.tokenizer))
    assert torch.equal(again('a cat'), ids[:1])
    assert again.identity == model.tokenizer.identity


@pytest.mark.parametrize('shape', [(2, 4), (3, 2, 4)])
def test_learned_tokens_between_and_in_place_of_others(shape):
    learned, tokens = torch.randn(shape), torch.randn(3, 5, 4)
    each = learned.expand(3, 2, 4)
    between = arrange_tokens(learned, tokens, torch.tensor([2, 0, 1, 3, 4, 5, 6]))
    assert_close(between, torch.cat([tokens[:, :1], each, tokens[:, 1:]], dim=1))
    orders = torch.tensor([[2, 0, 1, 5, 6], [2, 3, 0, 1, 6], [2, 3, 4, 0, 1]])  # of each text
    replaced = arrange_tokens(learned, tokens, orders)
    assert_close(replaced[1], torch.stack([*tokens[1, :2], *each[1], tokens[1, 4]]))
