"""GroupViT against official outputs: both towers, losses, gradients, training with recorded noise."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.clip.class_embeddings import embed_texts
from clipdense.clip.losses import contrastive_loss, multi_label_loss
from clipdense.layers.pos_embed import resize_positions
from clipdense.methods.groupvit import grouping
from clipdense.weights.key_map import from_ours

TOLERANCE = {'atol': 1e-5, 'rtol': 1e-5}
NAME = 'groupvit_nv_tiny'


def losses(model, tensors):
    texts = tensors['input.text_multi']
    images = model.encode_image(tensors['input.image'], normalize=True)
    embedded = model.encode_text(texts.flatten(0, 1)).unflatten(0, texts.shape[:2])
    embedded = normalize(embedded, dim=-1)
    return (
        contrastive_loss(images, embedded[:, 0], model.logit_scale.exp()),
        multi_label_loss(images, embedded[:, 1:], model.multi_label_logit_scale.exp()),
    )


def gradients(model):
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return from_ours(grads, 'groupvit_nvlabs')


@pytest.mark.parametrize(('image', 'prefix'), [('image', ''), ('image_rect', 'rect_')])
@torch.no_grad()
def test_every_stage_is_the_official_one(official, image, prefix):
    model, golden, _ = official(NAME, num_heads=2)
    x, grid = model.image.embed(golden[f'input.{image}'])
    positions = resize_positions(model.image.pos_embed, grid, prefix=0, antialias=False)
    assert_close(x - positions, golden[f'{prefix}patch_embed'], **TOLERANCE)
    tokens = None
    for index, stage in enumerate(model.image.stages):
        x, tokens, assignment = stage(x, tokens)
        assert_close(x, golden[f'{prefix}stage{index}.x'], **TOLERANCE)
        if assignment is not None:
            assert_close(tokens, golden[f'{prefix}stage{index}.group_token'], **TOLERANCE)
            assert_close(assignment.soft, golden[f'{prefix}stage{index}.attn_soft'][:, 0], **TOLERANCE)
            assert_close(assignment.used, golden[f'{prefix}stage{index}.attn_hard'][:, 0], **TOLERANCE)


@pytest.mark.parametrize(('image', 'prefix'), [('image', ''), ('image_rect', 'rect_')])
@torch.no_grad()
def test_images_are_embedded_as_officially(official, image, prefix):
    model, golden, _ = official(NAME, num_heads=2)
    features = model.image(golden[f'input.{image}'])
    assert_close(features.pooled, golden[f'{prefix}img_encoder.x'], **TOLERANCE)
    assert_close(features.groups, golden[f'{prefix}img_encoder.feat'], **TOLERANCE)
    assert_close(model.image.project(features.pooled), golden[f'{prefix}image_x'], **TOLERANCE)
    assert_close(model.image.project(features.groups), golden[f'{prefix}image_feat'], **TOLERANCE)
    embedded = model.encode_groups(golden[f'input.{image}'])
    assert_close(embedded.image, normalize(golden[f'{prefix}image_x'], dim=-1), **TOLERANCE)
    assert_close(embedded.groups, normalize(golden[f'{prefix}image_feat'], dim=-1), **TOLERANCE)


def embed_prompts(model, token_ids):
    """(K, T, L) -> (K, D), through a tokenizer that looks up class k in template t."""
    classes, templates = token_ids.shape[:2]
    model.tokenizer = lambda texts: torch.stack([token_ids[tuple(map(int, text.split()))] for text in texts])
    return embed_texts(model, [str(k) for k in range(classes)], [f'{{}} {t}' for t in range(templates)])


@torch.no_grad()
def test_texts_are_embedded_as_officially(official):
    model, golden, _ = official(NAME, num_heads=2)
    assert_close(model.text(golden['input.text']), golden['text_encoder.x'], **TOLERANCE)
    assert_close(model.encode_text(golden['input.text']), golden['text_x'], **TOLERANCE)
    classes = embed_prompts(model, golden['input.class_text'])
    assert_close(classes, golden['class_text_embedding'], **TOLERANCE)
    images = model.encode_image(golden['input.image'], normalize=True)
    assert_close(images @ classes.mT, golden['zero_shot_logits'], **TOLERANCE)


def test_losses_and_gradients(official):
    """In evaluation mode, through the straight-through argmax."""
    model, golden, meta = official(NAME, num_heads=2)
    contrastive, multi_label = losses(model, golden)
    assert contrastive.item() == pytest.approx(meta['loss'], abs=1e-5)
    assert multi_label.item() == pytest.approx(meta['multi_label_loss'], abs=1e-5)
    (contrastive + multi_label).backward()
    check_gradients(gradients(model), golden, 'grad.')


def test_training_with_the_recorded_noise(official, monkeypatch):
    model, golden, meta = official(NAME, num_heads=2)
    noise = [golden[f'input.train.gumbel_noise.stage{stage}'][:, 0] for stage in (0, 1)]
    recorded = iter(noise)
    monkeypatch.setattr(grouping, 'gumbel_noise', lambda like: next(recorded))
    contrastive, multi_label = losses(model.train(), golden)
    assert contrastive.item() == pytest.approx(meta['train_loss'], abs=1e-5)
    assert multi_label.item() == pytest.approx(meta['train_multi_label_loss'], abs=1e-5)
    (contrastive + multi_label).backward()
    check_gradients(gradients(model), golden, 'train.grad.')
    buffers = from_ours(dict(model.named_buffers()) | dict(model.named_parameters()), 'groupvit_nvlabs')
    after = {key: value for key, value in golden.items() if key.startswith('train.after.')}
    assert after
    for key, value in after.items():
        assert_close(buffers[key.removeprefix('train.after.')], value, **TOLERANCE)


@torch.no_grad()
def test_training_assigns_as_recorded(official, monkeypatch):
    model, golden, _ = official(NAME, num_heads=2)
    recorded = iter(golden[f'input.train.gumbel_noise.stage{stage}'][:, 0] for stage in (0, 1))
    monkeypatch.setattr(grouping, 'gumbel_noise', lambda like: next(recorded))
    assignments = model.train().image(golden['input.image']).assignments
    for index, assignment in enumerate(assignments):
        assert_close(assignment.used, golden[f'train.stage{index}.attn_hard'][:, 0], **TOLERANCE)
        clean = golden[f'train.stage{index}.assign_logits'][:, 0].softmax(dim=1)
        assert_close(assignment.soft, clean, **TOLERANCE)


@torch.no_grad()
def test_hugging_face(official):
    model, golden, _ = official('groupvit_hf_tiny', num_heads=2, text_num_heads=2)
    features = model.image(golden['input.pixel_values'])
    assert_close(features.pooled, golden['vision.pooler_output'], **TOLERANCE)
    assert_close(features.groups, golden['vision.last_hidden_state'], **TOLERANCE)
    for index, assignment in enumerate(features.assignments):
        assert_close(assignment.soft, golden[f'vision.stage{index}.attn_soft'], **TOLERANCE)
    images, texts = model(golden['input.pixel_values'], golden['input.input_ids'])
    assert_close(images, golden['image_embeds'], **TOLERANCE)
    assert_close(texts, golden['text_embeds'], **TOLERANCE)
    assert_close(
        model.logit_scale.exp() * images @ texts.mT, golden['logits_per_image'], atol=1e-4, rtol=1e-5
    )
    assert contrastive_loss(images, texts, model.logit_scale.exp()).item() == pytest.approx(
        golden['loss'].item(), abs=1e-5
    )


def check_gradients(ours, golden, prefix):
    theirs = {key.removeprefix(prefix): value for key, value in golden.items() if key.startswith(prefix)}
    assert len(theirs) > 100
    for name, gradient in theirs.items():
        assert_close(
            ours[name], gradient, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f'{name}: {text}'
        )
