"""Weights in and out: NVlabs' files, Hugging Face's, ours."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.preprocess import STATISTICS, Preprocess
from clipdense.engine.model_weights import model_meta
from clipdense.methods.groupvit.checkpoint import (
    from_official,
    load,
    save,
    save_huggingface,
    to_official,
)
from clipdense.methods.groupvit.grouping import patch_shares
from clipdense.methods.groupvit.method import recognize
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.pretrainer import GroupVitPretrainer
from clipdense.methods.groupvit.sizes import PUBLISHED, GroupVitSize
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights.strict import load_strict

NAMES = {'nvlabs': 'groupvit_nv_tiny', 'huggingface': 'groupvit_hf_tiny'}
HEADS = {'num_heads': 2, 'text_num_heads': 2}


def state_of(golden, layout):
    tensors, _ = golden(NAMES[layout])
    return {key.removeprefix('state.'): value for key, value in tensors.items() if key.startswith('state.')}


@pytest.mark.parametrize('layout', NAMES)
def test_there_and_back_bit_for_bit(golden, layout):
    state = state_of(golden, layout)
    back = to_official(from_official(state, **HEADS), layout)
    assert back.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(back[name], value), name


@pytest.mark.parametrize('layout', NAMES)
def test_layouts_are_recognized(golden, layout, tiny):
    assert recognize(state_of(golden, layout))
    assert recognize(f'module.{name}' for name in state_of(golden, layout))
    assert recognize(tiny().state_dict())
    assert recognize(f'clip.{name}' for name in tiny().state_dict())


@pytest.mark.parametrize('name', ['openai_clip_vit_tiny', 'denseclip_tiny'])
def test_others_are_not(golden, name):
    tensors, _ = golden(name)
    assert not recognize(key.removeprefix('state.') for key in tensors)


def test_stages_of_several_widths_there_and_back(tiny):
    """Embedding factors, which transformers has no place for."""
    size = tiny(mlp_ratio=4).size
    stages = size.image.stages
    wider = (stages[0], replace(stages[1], width=32), replace(stages[2], width=48))
    model = build_group_vit(replace(size, image=replace(size.image, stages=wider))).eval()
    names = to_official(model, 'nvlabs')
    assert 'img_encoder.layers.1.group_projector.0.1.fc1.weight' in names
    assert 'img_encoder.layers.1.downsample.reduction.1.weight' in names
    again = from_official(names, num_heads=2, text_num_heads=2)
    images = torch.randn(2, 3, 16, 20)
    assert torch.equal(model.encode_image(images), again.encode_image(images))
    with pytest.raises(InputError, match='stages of equal width'):
        to_official(model, 'huggingface')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'mlp_ratio': 4, 'stages': ((1, 6, 5), (1, 3, 3), (1, 0, 0))}, 'as many groups as group tokens'),
        ({'mlp_ratio': 2}, 'supports mlp_ratio 4 only, got 2'),
    ],
    ids=['groups', 'MLPs'],
)
def test_transformers_cannot_hold_it(tiny, options, message):
    with pytest.raises(InputError, match=message):
        to_official(tiny(**options))


def test_unknown_layout(tiny):
    with pytest.raises(InputError, match="layout must be 'nvlabs' or 'huggingface', got"):
        to_official(tiny(), 'timm')


@pytest.mark.parametrize('activation', ['gelu', 'quick_gelu'])
def test_the_activation_of_the_text_tower_comes_back(tiny, tmp_path, activation):
    """Tensors do not tell it: Hugging Face's config does, for NVlabs' layout the caller has to."""
    size = tiny(mlp_ratio=4).size
    model = build_group_vit(replace(size, text=replace(size.text, activation=activation))).eval()
    save_huggingface(model, tmp_path)
    stated = from_official(to_official(model, 'nvlabs'), **HEADS, text_activation=activation)
    words = torch.tensor([[48, 3, 49, 0, 0, 0, 0, 0], [48, 7, 5, 49, 0, 0, 0, 0]])
    for again in (load(tmp_path), stated):
        assert torch.equal(again.encode_text(words), model.encode_text(words))


def test_an_activation_that_is_not_known(tiny, tmp_path):
    save_huggingface(tiny(mlp_ratio=4), tmp_path)
    config = json.loads((tmp_path / 'config.json').read_text())
    config['text_config']['hidden_act'] = 'relu'
    (tmp_path / 'config.json').write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="unknown activation 'relu'"):
        load(tmp_path)


def test_our_own_format(tiny, tmp_path):
    model = tiny().eval()
    save(model, tmp_path / 'g.safetensors')
    again = load(tmp_path / 'g.safetensors')
    assert again.size == model.size
    assert again.preprocess == model.preprocess
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(model.encode_image(images), again.encode_image(images))


@pytest.mark.parametrize(
    'overrides',
    [{'num_heads': 2}, {'num_heads': (2, 2, 2), 'text_num_heads': 2, 'image_size': 16}, {'num_heads': None}],
    ids=str,
)
def test_our_own_format_may_be_told_what_it_tells(tiny, tmp_path, overrides):
    save(tiny(), tmp_path / 'g.safetensors')
    assert load(tmp_path / 'g.safetensors', **overrides).size == tiny().size


def test_our_own_format_takes_another_preprocessing(tiny, tmp_path):
    save(tiny(), tmp_path / 'g.safetensors')
    assert load(tmp_path / 'g.safetensors', preprocess='clip').preprocess == Preprocess.named('openai', 16)


@pytest.mark.parametrize(
    ('overrides', 'message'),
    [
        (
            {'num_heads': 4},
            r'g\.safetensors: the file records num_heads=\[2, 2, 2\], got num_heads=4: remove the override',
        ),
        ({'num_heads': [2, 2]}, r'got num_heads=\[2, 2\]: remove'),
        ({'text_num_heads': 1}, 'text_num_heads=2, got text_num_heads=1'),
        ({'image_size': 17}, 'image_size=16, got image_size=17'),
        ({'head': 2}, "no override 'head'; use num_heads, .*Did you mean 'num_heads'"),
    ],
    ids=str,
)
def test_our_own_format_is_not_overruled(tiny, tmp_path, overrides, message):
    save(tiny(), tmp_path / 'g.safetensors')
    with pytest.raises(InputError, match=message):
        load(tmp_path / 'g.safetensors', **overrides)


def test_a_training_checkpoint(tiny, tmp_path):
    trainer = GroupVitPretrainer(tiny())
    meta = {**model_meta(trainer), 'step': 3}
    torch.save({'state_dict': trainer.state_dict(), 'meta': meta}, tmp_path / 'step_3.pth')
    assert_close(load(tmp_path / 'step_3.pth').state_dict(), trainer.clip.state_dict())


def test_a_file_of_nvlabs_carries_more_than_weights(golden, tmp_path):
    """The config that stands beside the state dict is an object, which is not brought to life."""
    content = {'model': state_of(golden, 'nvlabs'), 'epoch': 29, 'config': Namespace(data=[1])}
    torch.save(content, tmp_path / 'group_vit.pth')
    model = load(tmp_path / 'group_vit.pth', num_heads=2)
    assert model.preprocess.mean == STATISTICS['imagenet'][0]


def test_the_preprocessing_of_hugging_face_on_demand(golden):
    model = from_official(state_of(golden, 'huggingface'), **HEADS, preprocess='clip')
    assert model.preprocess.mean == STATISTICS['openai'][0]
    assert model.preprocess.interpolation == 'bicubic'


def broken(state, change):
    state = dict(state)
    change(state)
    return state


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('img_encoder.norm.weight'), r'1 missing \(image.norm_post.weight\)'),
        (lambda s: s.update(extra=torch.ones(1)), r'1 unexpected \(extra\)'),
        (
            lambda s: s.update({'img_encoder.layers.1.group_token': torch.zeros(1, 5, 32)}),
            'group_projector.mixer.fc2.weight is',
        ),
        (lambda s: s.update({'img_encoder.pos_embed': torch.zeros(1, 63, 32)}), 'do not form a square grid'),
        (lambda s: s.pop('text_projector.linear_out.weight'), 'text.projector.out.weight is missing'),
    ],
    ids=['missing', 'left over', 'another group count', 'grid', 'incomplete'],
)
def test_what_does_not_fit_is_named(golden, change, message):
    with pytest.raises(CheckpointError, match=message):
        from_official(broken(state_of(golden, 'nvlabs'), change), num_heads=2)


def test_other_refusals(golden, tmp_path):
    with pytest.raises(CheckpointError, match='not a GroupViT'):
        from_official({'visual.conv1.weight': torch.ones(1)})
    with pytest.raises(InputError, match="Did you mean 'num_heads'"):
        from_official(state_of(golden, 'nvlabs'), num_head=2)
    with pytest.raises(InputError, match="Did you mean 'GroupViT-S-16'"):
        build_group_vit('GroupViT-S16')
    with pytest.raises(CheckpointError, match=r'has no model\.safetensors or'):
        load(tmp_path)


def test_published_sizes():
    """Parameters of the released model: 28,837,136 and 22,145,792 in the towers, 55,726,610 in all."""
    with torch.device('meta'):
        model = build_group_vit('GroupViT-S-16')
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    projectors = sum(
        p.numel() for part in (model.image.projector, model.text.projector) for p in part.parameters()
    )
    assert count['image'] - sum(p.numel() for p in model.image.projector.parameters()) == 28_837_136
    assert count['text'] - sum(p.numel() for p in model.text.projector.parameters()) == 22_145_792
    assert sum(p.numel() for p in model.parameters()) == 55_726_610
    assert projectors > 0
    assert GroupVitSize.from_dict(json.loads(json.dumps(model.size.to_dict()))) == PUBLISHED['GroupViT-S-16']


def test_transformers_in_full_size(tmp_path):
    """A random GroupViTModel of the released size, converted: images, texts, maps and logits are equal."""
    from transformers import GroupViTConfig, GroupViTModel

    torch.manual_seed(0)
    theirs = GroupViTModel(GroupViTConfig()).eval()
    torch.nn.init.normal_(theirs.vision_model.encoder.stages[1].group_token, std=0.02)
    theirs.save_pretrained(tmp_path / 'theirs')
    ours = load(tmp_path / 'theirs')
    images, ids = torch.randn(2, 3, 224, 224), torch.randint(1, 49000, (3, 20))
    ids[:, 15] = 49407
    with torch.no_grad():
        expected = theirs(input_ids=ids, pixel_values=images, output_segmentation=True)
        embeddings, texts = ours(images, ids)
        embedded = ours.encode_groups(images)
    assert_close(embeddings, expected.image_embeds, atol=1e-5, rtol=1e-4)
    assert_close(texts, expected.text_embeds, atol=1e-5, rtol=1e-4)
    shares = patch_shares(embedded.assignments).unflatten(-1, embedded.grid)  # (B, G, h, w)
    scale = ours.logit_scale.exp()
    per_group = scale * embedded.groups @ texts.mT  # (B, G, K)
    patches = torch.einsum('bgk,bghw->bkhw', per_group, shares) * scale
    upsampled = torch.nn.functional.interpolate(patches, (224, 224), mode='bilinear', align_corners=False)
    assert_close(upsampled, expected.segmentation_logits, atol=1e-3, rtol=1e-3)  # scaled by 14 twice

    save_huggingface(ours, tmp_path / 'ours')
    back = GroupViTModel.from_pretrained(tmp_path / 'ours').eval()
    with torch.no_grad():
        again = back(input_ids=ids, pixel_values=images)
    assert_close(again.image_embeds, expected.image_embeds)
    assert_close(again.text_embeds, expected.text_embeds)


def test_a_group_count_that_does_not_fit_the_checkpoint(tiny):
    """A config asks for three groups, the weights have four: which tensors, in one line."""
    trained, asked = (tiny(((1, 4, groups), (1, 0, 0))) for groups in (4, 3))
    with pytest.raises(CheckpointError, match=r'2 of another shape \(image.stages.0.grouping'):
        load_strict(asked, trained.state_dict(), 'step_10.pth')
