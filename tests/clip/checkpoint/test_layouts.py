"""Renaming is lossless in both directions, and gives the official names."""

from __future__ import annotations

import json

import pytest
import torch

from clipdense.clip.checkpoint.layouts import (
    LAYOUTS,
    from_ours,
    infer_size,
    recognize,
    strip_wrappers,
    to_ours,
)
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, HFTextSize, ResNetSize, TextSize, TimmSize, VitSize
from clipdense.utils.errors import CheckpointError


def vit(flavour='openai', **options):
    return VitSize(16, 4, 24, 2, 2, 40, 24 if flavour == 'siglip' else 16, 'gelu', flavour, **options)


def text(embed_dim=16, flavour='openai'):
    return TextSize(20, 3, 2, 36, embed_dim, 50, 9, 'gelu', flavour)


def bert(embed_dim=16):
    options = dict(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
    )
    return HFTextSize('bert', embed_dim, 'mean_pooler', 'linear', 9, options)


TRUNK = TimmSize('convnext_atto', 32, 16, '', 'mlp', options={'depths': (1, 1, 1, 1), 'dims': (4, 4, 8, 8)})
SIZES = {
    'openclip_vit': ClipSize(vit(), text()),
    'openclip_custom_vit': ClipSize(vit(), text()),
    'openclip_resnet': ClipSize(ResNetSize(64, 8, (1, 2, 1, 1), 4, 16), text()),
    'openclip_custom_resnet': ClipSize(ResNetSize(64, 8, (1, 2, 1, 1), 4, 16), text()),
    'slip': ClipSize(vit('slip'), text()),
    'openclip_timm': ClipSize(TRUNK, text()),
    'openclip_custom_timm': ClipSize(TRUNK, text()),
    'openclip_hf_vit': ClipSize(vit(), bert()),
    'openclip_hf_timm': ClipSize(TRUNK, bert()),
    'openclip_hf_siglip': ClipSize(vit('siglip'), bert(24), logit_bias=True),
    'openclip_siglip': ClipSize(vit('siglip'), text(24, 'siglip'), logit_bias=True),
    'huggingface_clip': ClipSize(vit(), text()),
    'huggingface_siglip': ClipSize(vit('siglip'), text(24, 'siglip'), logit_bias=True),
    'clipdense': ClipSize(vit(), text()),
}


def weights(layout):
    state = build_clip(SIZES[layout]).state_dict()
    return {name: torch.randn(tensor.shape) for name, tensor in state.items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize('layout', LAYOUTS)
def test_there_and_back_is_lossless(layout):
    ours = weights(layout)
    theirs = from_ours(ours, layout)
    assert len(theirs) >= len(ours) - 4 * (layout == 'huggingface_siglip')
    found = recognize(theirs)
    assert (found.layout, found.leftover, found.openai) == (layout, [], False)
    assert_same(found.tensors, ours)
    assert_same(from_ours(found.tensors, layout), theirs)


@pytest.mark.parametrize('layout', LAYOUTS)
def test_sizes_are_read_from_the_tensors(layout):
    expected = json.loads(json.dumps(SIZES[layout].to_dict()))
    for tower, told in zip(('image', 'text'), (SIZES[layout].image, SIZES[layout].text), strict=True):
        if isinstance(told, TimmSize | HFTextSize):
            expected[tower] = {}  # no tensor tells the architecture
            continue
        expected[tower].pop('num_heads')
        expected[tower].pop('activation', None)
        expected[tower].pop('eos_token_id', None)
    assert infer_size(weights(layout)) == expected


ROWS = [  # layout, ours, theirs, what is done to ours
    (
        'openclip_vit',
        'image.blocks.1.attn.qkv.weight',
        'visual.transformer.resblocks.1.attn.in_proj_weight',
        None,
    ),
    ('openclip_vit', 'image.class_token', 'visual.class_embedding', None),
    ('openclip_vit', 'image.norm_pre.bias', 'visual.ln_pre.bias', None),
    ('openclip_vit', 'image.patch_embed.weight', 'visual.conv1.weight', None),
    ('openclip_vit', 'text.blocks.2.mlp.fc2.bias', 'transformer.resblocks.2.mlp.c_proj.bias', None),
    ('openclip_vit', 'text.proj', 'text_projection', None),
    ('openclip_custom_vit', 'text.pos_embed', 'text.positional_embedding', None),
    ('openclip_custom_vit', 'image.proj', 'visual.proj', None),
    ('openclip_resnet', 'image.attn_pool.proj.bias', 'visual.attnpool.c_proj.bias', None),
    ('openclip_resnet', 'image.attn_pool.k.weight', 'visual.attnpool.k_proj.weight', None),
    ('openclip_resnet', 'image.conv1.weight', 'visual.conv1.weight', None),
    ('openclip_resnet', 'image.bn2.running_var', 'visual.bn2.running_var', None),
    ('openclip_resnet', 'image.layer2.1.conv3.weight', 'visual.layer2.1.conv3.weight', None),
    ('openclip_resnet', 'image.layer1.0.downsample.1.bias', 'visual.layer1.0.downsample.1.bias', None),
    ('slip', 'image.class_token', 'visual.cls_token', lambda x: x.view(1, 1, -1)),
    ('slip', 'image.pos_embed', 'visual.pos_embed', lambda x: x[None]),
    ('slip', 'image.proj', 'image_projection', None),
    ('slip', 'image.norm_post.weight', 'visual.norm.weight', None),
    ('slip', 'text.norm_post.weight', 'ln_final.weight', None),
    ('openclip_siglip', 'image.pool.query', 'visual.trunk.attn_pool.latent', lambda x: x.view(1, 1, -1)),
    ('openclip_siglip', 'image.pool.kv.weight', 'visual.trunk.attn_pool.kv.weight', None),
    ('openclip_siglip', 'image.pool.mlp.fc1.bias', 'visual.trunk.attn_pool.mlp.fc1.bias', None),
    ('openclip_siglip', 'text.proj', 'text.text_projection.weight', lambda x: x.t()),
    ('openclip_siglip', 'text.proj_bias', 'text.text_projection.bias', None),
    ('huggingface_clip', 'image.proj', 'visual_projection.weight', lambda x: x.t()),
    ('huggingface_clip', 'image.norm_pre.bias', 'vision_model.pre_layrnorm.bias', None),
    ('huggingface_clip', 'text.pos_embed', 'text_model.embeddings.position_embedding.weight', None),
    (
        'huggingface_clip',
        'image.blocks.1.attn.qkv.weight',
        'vision_model.encoder.layers.1.self_attn.k_proj.weight',
        lambda x: x[24:48],
    ),
    (
        'huggingface_clip',
        'text.blocks.0.attn.qkv.bias',
        'text_model.encoder.layers.0.self_attn.v_proj.bias',
        lambda x: x[40:],
    ),
    ('huggingface_siglip', 'image.pool.query', 'vision_model.head.probe', lambda x: x.view(1, 1, -1)),
    ('huggingface_siglip', 'logit_scale', 'logit_scale', lambda x: x[None]),
    ('huggingface_siglip', 'text.proj', 'text_model.head.weight', lambda x: x.t()),
]


@pytest.mark.parametrize(('layout', 'ours', 'theirs', 'change'), ROWS, ids=[f'{r[0]}-{r[2]}' for r in ROWS])
def test_official_names(layout, ours, theirs, change):
    tensors = weights(layout)
    expected = tensors[ours] if change is None else change(tensors[ours])
    assert torch.equal(from_ours(tensors, layout)[theirs], expected)


def test_siglip_pool_is_joined_in_the_order_query_key_value():
    tensors = weights('huggingface_siglip')
    joined = from_ours(tensors, 'huggingface_siglip')['vision_model.head.attention.in_proj_weight']
    assert torch.equal(joined[:24], tensors['image.pool.q.weight'])
    assert torch.equal(joined[24:], tensors['image.pool.kv.weight'])


def test_official_state_is_taken_whole(golden):
    for name in ('openai_clip_vit_tiny', 'openai_clip_rn_tiny'):
        tensors, _ = golden(name)
        state = {
            key.removeprefix('state.'): value for key, value in tensors.items() if key.startswith('state.')
        }
        found = recognize(state)
        assert not found.leftover
        assert_same(from_ours(found.tensors, found.layout), state)


WRAPPED = {
    'module': lambda state: {f'module.{name}': value for name, value in state.items()},
    'compiled': lambda state: {f'_orig_mod.{name}': value for name, value in state.items()},
    'both': lambda state: {f'module._orig_mod.{name}': value for name, value in state.items()},
    'module.model': lambda state: {f'module.model.{name}': value for name, value in state.items()},
    'inner': lambda state: {
        name.replace('visual.', 'visual._orig_mod.'): value for name, value in state.items()
    },
    'model': lambda state: {f'model.{name}': value for name, value in state.items()},
    'buffers': lambda state: {
        **state,
        'attn_mask': torch.zeros(9, 9),
        'transformer.resblocks.0.attn_mask': torch.zeros(9, 9),
        'text.transformer.embeddings.position_ids': torch.arange(9),
    },
    'openai': lambda state: {
        **state,
        **{name: torch.tensor(1) for name in ('input_resolution', 'context_length', 'vocab_size')},
    },
    'scale (1,)': lambda state: {**state, 'logit_scale': state['logit_scale'].view(1)},
}


@pytest.mark.parametrize('wrapper', WRAPPED)
def test_wrappers_and_buffers_are_stripped(wrapper):
    ours = weights('openclip_vit')
    found = recognize(WRAPPED[wrapper](from_ours(ours, 'openclip_vit')))
    assert (found.layout, found.leftover, found.openai) == ('openclip_vit', [], wrapper == 'openai')
    assert_same(found.tensors, ours)


def test_slip_head_is_dropped():
    theirs = {f'module.{name}': value for name, value in from_ours(weights('slip'), 'slip').items()}
    theirs['module.image_mlp.layer1.weight'] = torch.zeros(3)
    found = recognize(theirs)
    assert (found.layout, found.leftover) == ('slip', [])


def test_a_prefix_that_only_some_share_stays():
    state = {'module.a': torch.zeros(1), 'b': torch.zeros(1)}
    assert strip_wrappers(state).keys() == state.keys()


FOREIGN = {
    'convnext': (['visual.trunk.stem.0.weight', 'text.weight'], 'image tower of timm with a text tower that'),
    'groupvit': (
        ['img_encoder.pos_embed'],
        r'may need its config \(--config\); 1 tensors: img_encoder.pos_embed',
    ),
    'another vision model': (['vision_model.patch_embed'], 'image tower of another kind than CLIP'),
    'another text model': (['text_model.word_embeddings'], 'text tower of another kind than CLIP'),
    'resnet50': (
        ['conv1.weight', 'fc.weight'],
        r'not a known CLIP layout.*2 tensors: conv1.weight, fc.weight',
    ),
    'nothing': ([], '0 tensors'),
}


@pytest.mark.parametrize('name', FOREIGN)
def test_foreign_weights_are_told_by_name(name):
    keys, message = FOREIGN[name]
    with pytest.raises(CheckpointError, match=message):
        recognize({key: torch.zeros(1) for key in keys})


def test_unknown_names_are_left_over():
    theirs = from_ours(weights('openclip_vit'), 'openclip_vit')
    assert recognize({**theirs, 'visual.extra.weight': torch.zeros(1)}).leftover == ['visual.extra.weight']


def test_a_missing_third_is_named():
    theirs = from_ours(weights('huggingface_clip'), 'huggingface_clip')
    del theirs['text_model.encoder.layers.1.self_attn.k_proj.weight']
    with pytest.raises(CheckpointError, match=r'but not text_model.encoder.layers.1.self_attn.k_proj.weight'):
        to_ours(theirs, 'huggingface_clip')


def test_what_a_layout_cannot_hold_is_named():
    with pytest.raises(
        CheckpointError, match=r'openclip_vit does not define 1 tensors: image.patch_embed.bias'
    ):
        from_ours({'image.patch_embed.bias': torch.zeros(1)}, 'openclip_vit')


SHAPES = {
    'no square': (
        'image.pos_embed',
        torch.zeros(11, 24),
        '10 position embeddings, which do not form a square grid',
    ),
    'no grid': ('image.pos_embed', torch.zeros(1, 24), '0 position embeddings'),
    'flat patches': ('image.patch_embed.weight', torch.zeros(24, 3), 'invalid shapes'),
    'flat projection': ('text.proj', torch.zeros(20), 'invalid shapes'),
    'a gap': ('text.blocks.999999999.norm1.weight', torch.zeros(20), 'numbered 0 to 999999999, but only 4'),
    'gone': ('text.token_embed.weight', None, 'text.token_embed.weight is missing'),
}


@pytest.mark.parametrize('name', SHAPES)
def test_impossible_shapes(name):
    key, value, message = SHAPES[name]
    tensors = weights('openclip_vit')
    tensors.pop(key, None)
    if value is not None:
        tensors[key] = value
    with pytest.raises(CheckpointError, match=message):
        infer_size(tensors)
