"""Random models of open_clip, timm and transformers: equal outputs, and their loaders read what we write."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from clipdense.clip.checkpoint import convert, load, save
from clipdense.clip.preprocess import Preprocess
from clipdense.weights.io import read_weights

TEXT = {'width': 64, 'heads': 2, 'layers': 2, 'context_length': 12, 'vocab_size': 50}
VIT = {'image_size': 16, 'patch_size': 4, 'layers': 2, 'width': 96, 'head_width': 48, 'mlp_ratio': 1.511}
RESNET = {'image_size': 64, 'layers': [1, 2, 1, 1], 'width': 8}
OPEN_CLIP = {
    'quick_gelu': {'embed_dim': 32, 'quick_gelu': True, 'vision_cfg': VIT, 'text_cfg': TEXT},
    'gelu': {'embed_dim': 32, 'vision_cfg': VIT, 'text_cfg': TEXT},
    'custom text': {'embed_dim': 32, 'custom_text': True, 'vision_cfg': VIT, 'text_cfg': TEXT},
    'logit bias': {'embed_dim': 32, 'init_logit_bias': -10.0, 'vision_cfg': VIT, 'text_cfg': TEXT},
    'ResNet': {'embed_dim': 32, 'quick_gelu': True, 'vision_cfg': RESNET, 'text_cfg': TEXT},
    'tanh': {
        'embed_dim': 32,
        'vision_cfg': {**VIT, 'act_kwargs': {'approximate': 'tanh'}},
        'text_cfg': {**TEXT, 'act_kwargs': {'approximate': 'tanh'}},
    },
}


@torch.no_grad()
def randomise(module):
    torch.manual_seed(3)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_().mul_(0.2)
        if name.endswith('running_var'):
            tensor.abs_().add_(0.5)
    return module.eval()


def inputs(side):
    torch.manual_seed(4)
    token_ids = torch.randint(1, 40, (4, 12))
    token_ids[:, 8] = 49
    return torch.randn(3, 3, side, side), token_ids


@torch.no_grad()
def assert_equal_outputs(clip, image_embeddings, text_embeddings, normalize=False):
    images, token_ids = inputs(clip.size.image.image_size)
    found = clip.encode_image(images, normalize), clip.encode_text(token_ids, normalize)
    assert found[0].std() > 0.01
    torch.testing.assert_close(found, (image_embeddings, text_embeddings), atol=1e-5, rtol=0)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


# open_clip


@torch.no_grad()
def outputs(model):
    images, token_ids = inputs(
        model.visual.image_size[0] if isinstance(model.visual.image_size, tuple) else model.visual.image_size
    )
    return model.encode_image(images), model.encode_text(token_ids)


@pytest.mark.parametrize('name', OPEN_CLIP)
def test_open_clip_both_ways(tmp_path, name):
    open_clip = pytest.importorskip('open_clip')
    preprocess = {'mean': [0.1, 0.2, 0.3], 'std': [0.4, 0.5, 0.6], 'interpolation': 'bilinear'}
    theirs = tmp_path / 'theirs'
    theirs.mkdir()
    config = {'model_cfg': OPEN_CLIP[name], 'preprocess_cfg': {**preprocess, 'resize_mode': 'squash'}}
    (theirs / 'open_clip_config.json').write_text(json.dumps(config))
    model = randomise(open_clip.create_model(f'local-dir:{theirs}'))
    torch.save(model.state_dict(), theirs / 'open_clip_pytorch_model.bin')
    clip = load(theirs)
    assert_equal_outputs(clip, *outputs(model))
    assert clip.preprocess.to_dict() == {
        'image_size': clip.size.image.image_size,
        'mean': (0.1, 0.2, 0.3),
        'std': (0.4, 0.5, 0.6),
        'interpolation': 'bilinear',
        'resize': 'squash',
    }

    convert(theirs, tmp_path / 'ours', 'openclip')
    back = open_clip.create_model(f'local-dir:{tmp_path / "ours"}').eval()
    expected, found = outputs(model), outputs(back)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert open_clip.get_model_preprocess_cfg(back)['resize_mode'] == 'squash'
    assert open_clip.get_model_preprocess_cfg(back)['std'] == [0.4, 0.5, 0.6]
    if name != 'custom text':
        assert_same(
            read_weights(tmp_path / 'ours' / 'open_clip_model.safetensors').tensors, dict(model.state_dict())
        )


def text_tower(open_clip, activation, **options):
    from open_clip.transformer import LayerNorm, TextTransformer

    return TextTransformer(
        context_length=12,
        vocab_size=50,
        width=64,
        heads=1,
        layers=2,
        norm_layer=partial(LayerNorm, eps=options.pop('eps', 1e-5)),
        act_layer=activation,
        **options,
    )


def timm_tower(**options):
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=16, patch_size=4, embed_dim=64, depth=2, num_heads=1, num_classes=0, **options
    )


@torch.no_grad()
def test_slip(tmp_path):
    """facebookresearch/SLIP models.py: a timm tower with exact GELU, OpenAI's text tower with QuickGELU."""
    open_clip = pytest.importorskip('open_clip')
    from open_clip.transformer import QuickGELU

    image, text = randomise(timm_tower()), randomise(text_tower(open_clip, QuickGELU, output_dim=32))
    projection = torch.randn(64, 32)
    state = {f'visual.{name}': tensor for name, tensor in image.state_dict().items()}
    state |= text.state_dict() | {'image_projection': projection, 'logit_scale': torch.tensor(2.0)}
    torch.save(
        {'state_dict': {f'module.{name}': tensor for name, tensor in state.items()}}, tmp_path / 'slip.pt'
    )
    images, token_ids = inputs(16)
    assert_equal_outputs(load(tmp_path / 'slip.pt'), image(images) @ projection, text(token_ids))


@torch.no_grad()
@pytest.mark.parametrize('activation', ['gelu', 'gelu_tanh'])
def test_open_clip_siglip(tmp_path, activation):
    open_clip = pytest.importorskip('open_clip')
    gelu = partial(torch.nn.GELU, approximate='tanh' if activation == 'gelu_tanh' else 'none')
    image = randomise(timm_tower(class_token=False, global_pool='map', act_layer=gelu))
    options = {'output_dim': 64, 'no_causal_mask': True, 'proj_bias': True, 'pool_type': 'last', 'eps': 1e-6}
    text = randomise(text_tower(open_clip, gelu, **options))
    state = {f'visual.trunk.{name}': tensor for name, tensor in image.state_dict().items()}
    state |= {f'text.{name}': tensor for name, tensor in text.state_dict().items()}
    state |= {'logit_scale': torch.tensor(2.0), 'logit_bias': torch.tensor(-10.0)}
    torch.save(state, tmp_path / 'siglip.bin')
    clip = load(tmp_path / 'siglip.bin', activation=activation)
    images, token_ids = inputs(16)
    assert_equal_outputs(clip, image(images), text(token_ids))
    assert clip.preprocess == Preprocess.named('siglip', 16)
    convert(tmp_path / 'siglip.bin', tmp_path / 'back.safetensors', 'openclip', activation=activation)
    assert_same(read_weights(tmp_path / 'back.safetensors').tensors, state)


@pytest.mark.slow
def test_published_siglip_both_ways(tmp_path):
    open_clip = pytest.importorskip('open_clip')
    model = randomise(open_clip.create_model('ViT-B-16-SigLIP'))
    torch.save(model.state_dict(), tmp_path / 'siglip.bin')
    clip = load(tmp_path / 'siglip.bin')
    assert clip.size.image.activation == 'gelu'
    images = torch.randn(1, 3, 224, 224)
    token_ids = torch.randint(1, 32000, (2, 64))
    with torch.no_grad():
        torch.testing.assert_close(clip.encode_image(images), model.encode_image(images), atol=1e-4, rtol=0)
        torch.testing.assert_close(
            clip.encode_text(token_ids), model.encode_text(token_ids), atol=1e-4, rtol=0
        )
    convert(tmp_path / 'siglip.bin', tmp_path / 'folder', 'openclip')
    back = open_clip.create_model(f'local-dir:{tmp_path / "folder"}')
    assert_same(dict(back.state_dict()), dict(model.state_dict()))


# transformers

TOWER = {'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 100}
VISION = {**TOWER, 'hidden_size': 64, 'image_size': 16, 'patch_size': 4}
HF_TEXT = {**TOWER, 'vocab_size': 50, 'max_position_embeddings': 12, 'bos_token_id': 48, 'eos_token_id': 49}


def huggingface_model(kind, activation):
    transformers = pytest.importorskip('transformers')
    if kind == 'clip':
        config = transformers.CLIPConfig(
            vision_config={**VISION, 'hidden_act': activation},
            text_config={**HF_TEXT, 'hidden_size': 48, 'hidden_act': activation},
            projection_dim=32,
        )
        return randomise(transformers.CLIPModel(config))
    config = transformers.SiglipConfig(
        vision_config={**VISION, 'hidden_act': activation},
        text_config={**HF_TEXT, 'hidden_size': 64, 'hidden_act': activation},
    )
    return randomise(transformers.SiglipModel(config))


@pytest.mark.parametrize(
    ('kind', 'activation', 'ours'),
    [
        ('clip', 'quick_gelu', 'quick_gelu'),
        ('clip', 'gelu', 'gelu'),
        ('siglip', 'gelu_pytorch_tanh', 'gelu_tanh'),
    ],
)
def test_transformers_both_ways(tmp_path, kind, activation, ours):
    model = huggingface_model(kind, activation)
    model.save_pretrained(tmp_path / 'theirs')
    clip = load(tmp_path / 'theirs')
    assert clip.size.image.activation == clip.size.text.activation == ours
    assert clip.preprocess == Preprocess.named('siglip' if kind == 'siglip' else 'openai', 16)
    images, token_ids = inputs(16)
    with torch.no_grad():
        found = model(input_ids=token_ids, pixel_values=images)
    assert_equal_outputs(clip, found.image_embeds, found.text_embeds, normalize=True)

    save(clip, tmp_path / 'clip.safetensors')
    convert(tmp_path / 'clip.safetensors', tmp_path / 'ours', 'huggingface')
    back, report = type(model).from_pretrained(tmp_path / 'ours', output_loading_info=True)
    assert not report['missing_keys']
    assert not report['unexpected_keys']
    assert_same(dict(back.state_dict()), dict(model.state_dict()))
    with torch.no_grad():
        again = back.eval()(input_ids=token_ids, pixel_values=images)
    torch.testing.assert_close(again.logits_per_image, found.logits_per_image)


def test_written_preprocessor_is_read_by_transformers(tmp_path):
    transformers = pytest.importorskip('transformers')
    huggingface_model('clip', 'gelu').save_pretrained(tmp_path / 'theirs')
    given = Preprocess(16, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 'bilinear', 'squash')
    convert(tmp_path / 'theirs', tmp_path / 'ours', 'huggingface', preprocess=given)
    processor = transformers.SiglipImageProcessor.from_pretrained(tmp_path / 'ours')
    assert dict(processor.size) == {'height': 16, 'width': 16}
    assert (list(processor.image_mean), int(processor.resample)) == ([0.1, 0.2, 0.3], 2)
    assert load(tmp_path / 'ours').preprocess == given
