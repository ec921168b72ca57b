"""What weights do not record, tensors that do not match, and config files next to the weights."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from clipdense.clip.checkpoint import describe, load, save
from clipdense.clip.checkpoint.layouts import from_ours
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import ClipSize, VitSize
from clipdense.utils.errors import CheckpointError, InputError

from ..conftest import RESNET, SIGLIP, SIZES, SLIP, TEXT, VIT, assert_same_model, make, write

# What files do not tell


@pytest.mark.parametrize(('kind', 'layout'), [('vit', 'openclip_vit'), ('resnet', 'openclip_resnet')])
def test_activation_is_asked_for(tmp_path, kind, layout):
    clip = make(SIZES[kind])
    path = write(clip, layout, tmp_path / 'weights.safetensors')
    with pytest.raises(
        CheckpointError, match=r"cannot infer the activation .*activation='quick_gelu'.*'gelu'"
    ):
        load(path)
    assert_same_model(load(path, activation='gelu'), clip)
    assert load(path, activation='quick_gelu').size.text.activation == 'quick_gelu'
    mixed = load(path, activation='gelu', text_activation='quick_gelu').size
    assert (getattr(mixed.image, 'activation', 'gelu'), mixed.text.activation) == ('gelu', 'quick_gelu')


def test_siglip_activation_is_asked_for(tmp_path):
    path = write(make(SIGLIP), 'openclip_siglip', tmp_path / 'weights.safetensors')
    with pytest.raises(CheckpointError, match="'gelu_tanh'"):
        load(path)


def test_slip_layout_tells_everything(tmp_path):
    clip = make(SLIP)
    state = {f'module.{name}': tensor for name, tensor in from_ours(clip.state_dict(), 'slip').items()}
    state['module.image_mlp.layer1.weight'] = torch.zeros(2)
    torch.save({'epoch': 3, 'state_dict': state, 'best_acc1': 1.0}, tmp_path / 'slip.pt')
    found = load(tmp_path / 'slip.pt')
    assert_same_model(found, clip)
    assert found.preprocess == Preprocess(16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 'bilinear')
    with pytest.raises(CheckpointError, match="SLIP's layout records"):
        load(tmp_path / 'slip.pt', activation='gelu')


HEADS = {  # width, layers, mlp width, flavour -> heads that are not a 64th of the width, or are
    'ViT-H-14': ((1280, 32, 5120, 'openai'), 16),
    'ViT-g-14': ((1408, 40, 6144, 'openai'), 16),
    'ViT-bigG-14': ((1664, 48, 8192, 'openai'), 16),
    'SLIP ViT-S': ((384, 12, 1536, 'slip'), 12),
    'SO400M': ((1152, 27, 4304, 'siglip'), 16),
    'ViT-B': ((768, 12, 3072, 'openai'), 12),
    'unknown': ((192, 5, 768, 'openai'), 3),
}


@pytest.mark.parametrize('name', HEADS)
def test_heads_of_published_widths(name):
    from clipdense.clip.checkpoint.settings import _usual_heads

    (width, layers, mlp_width, flavour), heads = HEADS[name]
    tower = {'width': width, 'layers': layers, 'mlp_width': mlp_width, 'flavour': flavour}
    assert _usual_heads(tower, 'num_heads') == heads


def test_heads_are_asked_for(tmp_path):
    clip = make(ClipSize(VitSize(16, 4, 48, 2, 3, 96, 32, 'gelu'), TEXT))
    path = write(clip, 'openclip_vit', tmp_path / 'weights.safetensors')
    with pytest.raises(
        CheckpointError,
        match=r'cannot infer the number of attention heads of a tower of width 48; pass num_heads=',
    ):
        load(path, activation='gelu')
    assert_same_model(load(path, activation='gelu', num_heads=3), clip)


def test_preprocess_can_be_given(tmp_path):
    path = write(make(VIT), 'openclip_vit', tmp_path / 'weights.safetensors')
    assert load(path, activation='gelu').preprocess == Preprocess.named('openai', 16)
    assert load(path, activation='gelu', preprocess='half').preprocess == Preprocess.named('half', 16)
    own = Preprocess(24, resize='squash')
    assert load(path, activation='gelu', preprocess=own).preprocess is own


# Tensors that do not match


def test_mismatches_are_counted_and_named(tmp_path):
    state = from_ours(make(VIT).state_dict(), 'openclip_vit')
    for n in range(12):
        state[f'visual.extra.{n:02}'] = torch.zeros(1)
    del state['visual.ln_post.bias']
    state['ln_final.weight'] = torch.zeros(3)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, tmp_path / 'odd.safetensors')
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / 'odd.safetensors', activation='gelu')
    message = str(caught.value)
    assert '1 missing (image.norm_post.bias)' in message
    assert '12 unexpected (visual.extra.00, ' in message
    assert 'visual.extra.09, ...)' in message
    assert 'visual.extra.10' not in message
    assert '1 of another shape (text.norm_post.weight is (3,), expected (64,))' in message
    assert '\n' not in message


BAD_META = {
    'no size': {'format': 'clipdense', 'preprocess': '{}'},
    'not JSON': {'format': 'clipdense', 'size': '{', 'preprocess': '{}'},
    'other fields': {
        'format': 'clipdense',
        'size': '{"image": {"layers": 3}, "text": {}}',
        'preprocess': '{}',
    },
}


def test_description_of_another_model(tmp_path):
    size = make(VIT).size.to_dict()
    size['text']['ids'] = {}
    about = {'format': 'clipdense', 'size': json.dumps(size), 'preprocess': '{}'}
    save_file(make(VIT).state_dict(), tmp_path / 'blip.safetensors', about)
    with pytest.raises(CheckpointError, match="has 'ids', which a CLIP does not have"):
        load(tmp_path / 'blip.safetensors')


@pytest.mark.parametrize('name', BAD_META)
def test_damaged_description(tmp_path, name):
    save_file(make(VIT).state_dict(), tmp_path / 'clip.safetensors', BAD_META[name])
    with pytest.raises(CheckpointError, match='recorded size or preprocessing cannot be read'):
        load(tmp_path / 'clip.safetensors')


def test_wrong_description(tmp_path):
    description = describe(RESNET, Preprocess(64))
    save_file(make(VIT).state_dict(), tmp_path / 'clip.safetensors', description)
    with pytest.raises(CheckpointError, match=r'does not match .* missing .*unexpected'):
        load(tmp_path / 'clip.safetensors')


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        (
            'ViT-B-16/opnai',
            r"does not exist as a file, and unknown weights.*Did you mean 'ViT-B-16/openai'",
        ),
        ('missing.pt', 'missing.pt does not exist'),
        ('./ViT-B-16', 'does not exist'),
    ],
)
def test_unknown_names_and_paths(weights, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load(weights)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'num_heads': 5}, 'an invalid model: width 64 is not divisible by 5 attention heads'),
        ({'activation': 'qiuck_gelu'}, r"unknown activation 'qiuck_gelu'.*Did you mean 'quick_gelu'"),
        ({'preprocess': 'clip'}, "unknown preprocessing 'clip'"),
    ],
)
def test_impossible_overrides(tmp_path, option, message):
    path = write(make(VIT), 'openclip_vit', tmp_path / 'weights.safetensors')
    with pytest.raises(InputError, match=message):
        load(path, **{'activation': 'gelu', **option})


def test_endless_model_is_not_built(tmp_path):
    size = describe(VIT, Preprocess(16))
    size['size'] = size['size'].replace('"layers": 2', '"layers": 1000000000')
    save_file(make(VIT).state_dict(), tmp_path / 'clip.safetensors', size)
    with pytest.raises(CheckpointError, match='2000000000 layers but'):
        load(tmp_path / 'clip.safetensors')


def test_unknown_override(tmp_path):
    save(make(VIT), tmp_path / 'clip.safetensors')
    with pytest.raises(InputError, match=r"no override 'heads'.*Did you mean 'num_heads'"):
        load(tmp_path / 'clip.safetensors', heads=3)


# Folders


def test_folder_with_one_file(tmp_path):
    clip = make(VIT)
    save(clip, tmp_path / 'anything.safetensors')
    assert_same_model(load(tmp_path), clip)
    save(clip, tmp_path / 'another.safetensors')
    with pytest.raises(CheckpointError, match=r'several weights files: another.safetensors, anything'):
        load(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match='has no weights file'):
        load(tmp_path)


CONFIG = {
    'model_type': 'clip',
    'vision_config': {'num_attention_heads': 1, 'hidden_act': 'gelu', 'image_size': 16, 'hidden_size': 64},
    'text_config': {'num_attention_heads': 1, 'hidden_act': 'gelu'},
}
OPEN_CLIP = {
    'embed_dim': 32,
    'vision_cfg': {'image_size': 16, 'layers': 2, 'width': 64, 'patch_size': 4, 'mlp_ratio': 1.5},
    'text_cfg': {'width': 64, 'heads': 1, 'layers': 2, 'context_length': 12, 'vocab_size': 50},
}


def changed(config, where, **values):
    config = json.loads(json.dumps(config))
    (config[where] if where else config).update(values)
    return config


HF, OC = 'huggingface_clip', 'openclip_vit'
CONFIGS = {  # layout of the weights, config file beside them, refusal
    'type': (HF, changed(CONFIG, None, model_type='altclip'), "unsupported model_type 'altclip'"),
    'activation': (HF, changed(CONFIG, 'text_config', hidden_act='relu'), "'relu'"),
    'eps': (HF, changed(CONFIG, 'text_config', layer_norm_eps=1e-6), 'layer_norm_eps=1e-06'),
    'width': (HF, changed(CONFIG, 'vision_config', hidden_size=768), 'width=768, but the tensors'),
    'pixels': (HF, changed(CONFIG, 'vision_config', image_size=32), 'of 32 pixels, but .* for 16'),
    'a list': (HF, [1], 'is not a JSON object'),
    'pooling': (OC, changed(OPEN_CLIP, 'vision_cfg', pool_type='avg'), "pool_type='avg'"),
    'end of text': (OC, changed(OPEN_CLIP, 'text_cfg', pool_type='first'), "pool_type='first'"),
    'pooled first': (
        OC,
        changed(OPEN_CLIP, 'text_cfg', no_causal_mask=True, pool_type='first'),
        'no_causal_mask, pool_type',
    ),
    'norm': (OC, changed(OPEN_CLIP, 'text_cfg', norm_kwargs={'eps': 1e-6}), 'norm_kwargs'),
    'text tower': (OC, changed(OPEN_CLIP, 'text_cfg', hf_model_name='roberta'), "'roberta'"),
    'timm tower': (OC, changed(OPEN_CLIP, 'vision_cfg', timm_model_name='eva'), "'eva'"),
    'text layers': (OC, changed(OPEN_CLIP, 'text_cfg', layers=3), 'layers=3, but the tensors have layers=2'),
    'a word for a number': (OC, changed(OPEN_CLIP, 'vision_cfg', width='wide'), 'is invalid'),
    'a list for a tower': (HF, changed(CONFIG, None, text_config=[3]), 'is invalid'),
    'resize': (
        OC,
        {'model_cfg': OPEN_CLIP, 'preprocess_cfg': {'resize_mode': 'longest'}},
        "resize_mode='longest'",
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', CONFIGS)
def test_settings_that_we_do_not_have_are_refused(tmp_path, name):
    layout, config, message = CONFIGS[name]
    file, beside = ('open_clip_model', 'open_clip_config') if 'openclip' in layout else ('model', 'config')
    write(make(VIT), layout, tmp_path / f'{file}.safetensors')
    (tmp_path / f'{beside}.json').write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ('layout', 'file', 'beside', 'config'),
    [
        ('huggingface_clip', 'model', 'config', CONFIG),
        ('openclip_vit', 'open_clip_model', 'open_clip_config', {'model_cfg': OPEN_CLIP}),
        ('openclip_custom_vit', 'open_clip_model', 'open_clip_config', OPEN_CLIP),
    ],
    ids=['huggingface', 'open_clip', 'open_clip custom text'],
)
def test_config_beside_is_read(tmp_path, layout, file, beside, config):
    clip = make(VIT)
    path = write(clip, layout, tmp_path / f'{file}.safetensors')
    (tmp_path / f'{beside}.json').write_text(json.dumps(config))
    assert_same_model(load(tmp_path), clip)
    assert_same_model(load(path), clip)
    with pytest.raises(CheckpointError, match=f'{beside}.json records'):
        load(path, activation='quick_gelu')


PREPROCESSORS = {
    'old CLIP': (
        {'size': 16, 'crop_size': 16, 'resample': 3, 'do_center_crop': True, 'image_mean': [0.1, 0.2, 0.3]},
        Preprocess(16, (0.1, 0.2, 0.3)),
    ),
    'CLIP': (
        {'size': {'shortest_edge': 16}, 'crop_size': {'height': 16, 'width': 16}, 'resample': 2},
        Preprocess(16, interpolation='bilinear'),
    ),
    'SigLIP': (
        {'size': {'height': 16, 'width': 16}, 'image_processor_type': 'SiglipImageProcessor'},
        Preprocess.named('siglip', 16),
    ),
}


@pytest.mark.parametrize('name', PREPROCESSORS)
def test_preprocessor_config_is_read(tmp_path, name):
    config, expected = PREPROCESSORS[name]
    write(make(VIT), 'huggingface_clip', tmp_path / 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps(CONFIG))
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps(config))
    assert load(tmp_path).preprocess == expected


def test_named_weights(tmp_path, monkeypatch):
    """A name brings its facts; nothing of the zoo is asked for again."""
    from clipdense.weights import zoo

    clip = make(VIT)
    path = write(clip, 'openclip_vit', tmp_path / 'weights.safetensors')
    preprocess = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5), 'resize_mode': 'squash'}
    entry = zoo.Entry('A/b', '', 'x/y', (), '', 'MIT', {'model_cfg': OPEN_CLIP, 'preprocess_cfg': preprocess})
    monkeypatch.setattr(zoo, 'find', lambda name: entry)
    monkeypatch.setattr(zoo, 'fetch', lambda found: path)
    found = load('A/b')
    assert_same_model(found, clip)
    assert found.preprocess == Preprocess.named('siglip', 16)
