"""Weights of every official layout, loaded: equal outputs, what is recorded, and what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipdense.clip.checkpoint import convert, describe, load, save
from clipdense.clip.model import build_clip
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights.io import read_weights
from clipdense.weights.key_map import from_ours

TEXT = TextSize(64, 2, 1, 96, 32, 50, 12, 'gelu')
VIT = ClipSize(VitSize(16, 4, 64, 2, 1, 96, 32, 'gelu'), TEXT)
RESNET = ClipSize(ResNetSize(64, 8, (1, 2, 1, 1), 4, 32), TEXT)
SLIP = ClipSize(
    VitSize(16, 4, 64, 2, 1, 96, 32, 'gelu', 'slip'), TextSize(64, 2, 1, 96, 32, 50, 12, 'quick_gelu')
)
SIGLIP = ClipSize(
    VitSize(16, 4, 64, 2, 1, 96, 64, 'gelu_tanh', 'siglip'),
    TextSize(64, 2, 1, 96, 64, 50, 12, 'gelu_tanh', 'siglip'),
    logit_bias=True,
)
SIZES = {'vit': VIT, 'resnet': RESNET, 'slip': SLIP, 'siglip': SIGLIP}


def make(size):
    """A model whose every tensor is random, batch statistics included."""
    clip = build_clip(size).eval()
    with torch.no_grad():
        for name, tensor in clip.state_dict().items():
            if tensor.is_floating_point():
                tensor.normal_().mul_(0.2)
            if name.endswith('running_var'):
                tensor.abs_().add_(0.5)
    return clip


def write(clip, layout, path):
    """An official file of the model, without anything beside it."""
    save_file({n: t.contiguous() for n, t in from_ours(clip.state_dict(), layout).items()}, path)
    return path


def inputs(size):
    torch.manual_seed(1)
    side = size.image.image_size
    token_ids = torch.randint(1, 40, (4, 12))
    token_ids[:, 8] = 49
    return torch.randn(3, 3, side, side), token_ids


@torch.no_grad()
def assert_same_outputs(clip, image_embeddings, text_embeddings, images, token_ids):
    torch.testing.assert_close(clip.encode_image(images), image_embeddings, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.encode_text(token_ids), text_embeddings, atol=1e-5, rtol=0)


def assert_same_model(found, expected):
    assert found.size == expected.size
    state = expected.state_dict()
    assert found.state_dict().keys() == state.keys()
    for name, tensor in found.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    images, token_ids = inputs(expected.size)
    with torch.no_grad():
        expected_embeddings = expected.encode_image(images), expected.encode_text(token_ids)
    assert_same_outputs(found, *expected_embeddings, images, token_ids)


# Official outputs


@pytest.mark.parametrize('name', ['openai_clip_vit_tiny', 'openai_clip_rn_tiny'])
@pytest.mark.parametrize('suffix', ['safetensors', 'pt'])
def test_openai_outputs(golden, tmp_path, name, suffix):
    tensors, _ = golden(name)
    state = {key.removeprefix('state.'): value for key, value in tensors.items() if key.startswith('state.')}
    path = tmp_path / f'weights.{suffix}'
    if suffix == 'pt':
        torch.save({'state_dict': {f'module.{key}': value for key, value in state.items()}, 'epoch': 1}, path)
    else:
        save_file(state, path)
    clip = load(path, activation='quick_gelu')
    assert not clip.training
    assert_same_outputs(
        clip,
        tensors['output.image_features'],
        tensors['output.text_features'],
        tensors['input.image'],
        tensors['input.text'],
    )


def test_openai_archive(golden, golden_path):
    tensors, _ = golden('openai_clip_vit_tiny_jit')
    clip = load(golden_path('openai_clip_vit_tiny_jit.pt'))
    assert clip.size.image.activation == clip.size.text.activation == 'quick_gelu'
    assert {parameter.dtype for parameter in clip.parameters()} == {torch.float32}
    assert_same_outputs(
        clip,
        tensors['output.image_features'],
        tensors['output.text_features'],
        tensors['input.image'],
        tensors['input.text'],
    )
    with pytest.raises(CheckpointError, match="OpenAI's archive records activation='quick_gelu', but 'gelu'"):
        load(golden_path('openai_clip_vit_tiny_jit.pt'), activation='gelu')


# Our own format


@pytest.mark.parametrize('kind', SIZES)
def test_saved_and_loaded(tmp_path, kind):
    clip = make(SIZES[kind])
    clip.preprocess = Preprocess(20, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 'bilinear', 'squash')
    save(clip, tmp_path / 'clip.safetensors')
    found = load(tmp_path / 'clip.safetensors')
    assert_same_model(found, clip)
    assert found.preprocess == clip.preprocess
    assert found.preprocess(Image.new('RGB', (40, 30))).shape == (3, 20, 20)
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in found.parameters())


def test_training_checkpoint(tmp_path):
    clip = make(VIT)
    state = {f'clip.{name}': tensor for name, tensor in clip.state_dict().items()}
    state['head.weight'] = torch.zeros(2)
    meta = {'seed': 1, 'clip': describe(clip.size, clip.preprocess)}
    torch.save({'state_dict': state, 'optimizer': {'state': {}}, 'meta': meta}, tmp_path / 'best.pth')
    assert_same_model(load(tmp_path / 'best.pth'), clip)


@pytest.mark.parametrize('option', [{'activation': 'quick_gelu'}, {'num_heads': 2}, {'text_heads': 2}])
def test_own_record_is_not_overridden(tmp_path, option):
    save(make(VIT), tmp_path / 'clip.safetensors')
    with pytest.raises(CheckpointError, match='the file itself records'):
        load(tmp_path / 'clip.safetensors', **option)


def test_loading_leaves_the_file_alone(tmp_path):
    save(make(VIT), tmp_path / 'clip.safetensors')
    before = (tmp_path / 'clip.safetensors').read_bytes()
    clip = load(tmp_path / 'clip.safetensors')
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.zero_()
    assert (tmp_path / 'clip.safetensors').read_bytes() == before


@pytest.mark.parametrize('suffix', ['safetensors', 'pt'])
def test_a_file_that_changes_leaves_the_model_alone(tmp_path, suffix):
    path = tmp_path / f'clip.{suffix}'
    save(make(VIT), tmp_path / 'clip.safetensors')
    if suffix == 'pt':
        clip = make(VIT)
        own = {'clip': describe(clip.size, clip.preprocess)}
        torch.save({'state_dict': clip.state_dict(), 'meta': own}, path)
    clip = load(path)
    before = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    with open(path, 'r+b') as file:
        file.write(bytes(path.stat().st_size))
    for name, tensor in clip.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_files_become_single(tmp_path, dtype):
    clip = make(RESNET)
    path = write(clip.to(dtype), 'openclip_resnet', tmp_path / 'half.safetensors')
    found = load(path, activation='gelu')
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.float32, torch.int64}
    assert load(path, activation='gelu', dtype=torch.bfloat16).image.conv1.weight.dtype == torch.bfloat16
    found.encode_image(torch.randn(1, 3, 64, 64))


def test_missing_device(tmp_path):
    if torch.cuda.is_available():
        pytest.skip('has a GPU')
    save(make(VIT), tmp_path / 'clip.safetensors')
    with pytest.raises(InputError, match=r"device 'cuda' cannot be used here .*; try device='cpu'"):
        load(tmp_path / 'clip.safetensors', device='cuda')


# What files do not tell


@pytest.mark.parametrize(('kind', 'layout'), [('vit', 'openclip_vit'), ('resnet', 'openclip_resnet')])
def test_activation_is_asked_for(tmp_path, kind, layout):
    clip = make(SIZES[kind])
    path = write(clip, layout, tmp_path / 'weights.safetensors')
    with pytest.raises(
        CheckpointError, match=r"nothing tells the activation .*activation='quick_gelu'.*'gelu'"
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
    from clipdense.clip.facts import _usual_heads

    (width, layers, mlp_width, flavour), heads = HEADS[name]
    tower = {'width': width, 'layers': layers, 'mlp_width': mlp_width, 'flavour': flavour}
    assert _usual_heads(tower, 'num_heads') == heads


def test_heads_are_asked_for(tmp_path):
    clip = make(ClipSize(VitSize(16, 4, 48, 2, 3, 96, 32, 'gelu'), TEXT))
    path = write(clip, 'openclip_vit', tmp_path / 'weights.safetensors')
    with pytest.raises(CheckpointError, match=r'width 48 is unknown: say how many heads with num_heads='):
        load(path, activation='gelu')
    assert_same_model(load(path, activation='gelu', num_heads=3), clip)


def test_preprocess_can_be_given(tmp_path):
    path = write(make(VIT), 'openclip_vit', tmp_path / 'weights.safetensors')
    assert load(path, activation='gelu').preprocess == Preprocess.named('openai', 16)
    assert load(path, activation='gelu', preprocess='half').preprocess == Preprocess.named('half', 16)
    own = Preprocess(24, resize='squash')
    assert load(path, activation='gelu', preprocess=own).preprocess is own


# What does not fit


def test_misfits_are_counted_and_named(tmp_path):
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
    assert '12 without a place (visual.extra.00, ' in message
    assert 'visual.extra.09, ...)' in message
    assert 'visual.extra.10' not in message
    assert '1 of another shape (text.norm_post.weight is (3,), not (64,))' in message
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


@pytest.mark.parametrize('name', BAD_META)
def test_damaged_description(tmp_path, name):
    save_file(make(VIT).state_dict(), tmp_path / 'clip.safetensors', BAD_META[name])
    with pytest.raises(CheckpointError, match='its size or preprocessing cannot be read'):
        load(tmp_path / 'clip.safetensors')


def test_wrong_description(tmp_path):
    description = describe(RESNET, Preprocess(64))
    save_file(make(VIT).state_dict(), tmp_path / 'clip.safetensors', description)
    with pytest.raises(CheckpointError, match=r'does not fit .* missing .*without a place'):
        load(tmp_path / 'clip.safetensors')


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ('ViT-B-16/opnai', r"no file here, and no weights are called.*Did you mean 'ViT-B-16/openai'"),
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
        ({'num_heads': 5}, 'an impossible model: width 64 cannot be divided among 5 heads'),
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
    with pytest.raises(CheckpointError, match='2000000000 layers in'):
        load(tmp_path / 'clip.safetensors')


def test_unknown_override(tmp_path):
    with pytest.raises(TypeError, match='heads'):
        load(tmp_path, heads=3)


# Folders


def test_folder_with_one_file(tmp_path):
    clip = make(VIT)
    save(clip, tmp_path / 'anything.safetensors')
    assert_same_model(load(tmp_path), clip)
    save(clip, tmp_path / 'another.safetensors')
    with pytest.raises(CheckpointError, match=r'several weights files: another.safetensors, anything'):
        load(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(CheckpointError, match='holds no weights file'):
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
    'type': (HF, changed(CONFIG, None, model_type='altclip'), "a model of type 'altclip'"),
    'activation': (HF, changed(CONFIG, 'text_config', hidden_act='relu'), "'relu'"),
    'eps': (HF, changed(CONFIG, 'text_config', layer_norm_eps=1e-6), 'layer_norm_eps=1e-06'),
    'width': (HF, changed(CONFIG, 'vision_config', hidden_size=768), 'width=768, the tensors'),
    'pixels': (HF, changed(CONFIG, 'vision_config', image_size=32), 'of 32 pixels, the tensors 16'),
    'a list': (HF, [1], 'no JSON object'),
    'pooling': (OC, changed(OPEN_CLIP, 'vision_cfg', pool_type='avg'), "pool_type='avg'"),
    'end of text': (OC, changed(OPEN_CLIP, 'text_cfg', pool_type='eos'), "pool_type='eos'"),
    'not causal': (OC, changed(OPEN_CLIP, 'text_cfg', no_causal_mask=True), 'no_causal_mask'),
    'norm': (OC, changed(OPEN_CLIP, 'text_cfg', norm_kwargs={'eps': 1e-6}), 'norm_kwargs'),
    'text tower': (OC, changed(OPEN_CLIP, 'text_cfg', hf_model_name='roberta'), "'roberta'"),
    'timm tower': (OC, changed(OPEN_CLIP, 'vision_cfg', timm_model_name='eva'), "'eva'"),
    'text layers': (OC, changed(OPEN_CLIP, 'text_cfg', layers=3), 'layers=3, the tensors have 2'),
    'a word for a number': (OC, changed(OPEN_CLIP, 'vision_cfg', width='wide'), 'cannot be understood'),
    'a list for a tower': (HF, changed(CONFIG, None, text_config=[3]), 'cannot be understood'),
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


# Tokenizers


def test_tokenizer_of_openai_needs_nothing(tmp_path):
    size = ClipSize(VIT.image, TextSize(64, 1, 1, 64, 32, activation='gelu'))
    save(build_clip(size), tmp_path / 'clip.safetensors')
    row = load(tmp_path / 'clip.safetensors').tokenizer('a cat')[0]
    assert row[:4].tolist() == [49406, 320, 2368, 49407]


def test_missing_tokenizer_is_told_when_used(tmp_path):
    save(make(SIGLIP), tmp_path / 'clip.safetensors')
    clip = load(tmp_path / 'clip.safetensors')
    with pytest.raises(InputError, match=r'without a tokenizer for its 50 token ids: put tokenizer.json'):
        clip.tokenizer('a cat')


@pytest.fixture
def tokenizer_files(tmp_path):
    tokenizers = pytest.importorskip('tokenizers')
    words = {'</s>': 0, '<unk>': 1, 'a': 2, 'cat': 3}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, '<unk>'))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = tmp_path / 'model'
    folder.mkdir()
    made.save(str(folder / 'tokenizer.json'))
    special = {'eos_token': '</s>', 'pad_token': '</s>', 'unk_token': '<unk>'}
    (folder / 'tokenizer_config.json').write_text(json.dumps(special))
    return folder


def test_tokenizer_travels_with_the_weights(tmp_path, tokenizer_files):
    write(make(SIGLIP), 'openclip_siglip', tokenizer_files / 'weights.safetensors')
    clip = load(tokenizer_files / 'weights.safetensors', activation='gelu_tanh')
    row = [2, 3] + [0] * 10
    assert clip.tokenizer('A cat!').tolist() == [row]
    save(clip, tmp_path / 'saved' / 'clip.safetensors')
    assert load(tmp_path / 'saved' / 'clip.safetensors').tokenizer('a cat').tolist() == [row]
    source = tmp_path / 'saved' / 'clip.safetensors'
    convert(source, tmp_path / 'hf', 'huggingface')
    assert load(tmp_path / 'hf').tokenizer('a cat').tolist() == [row]


# Converting


@pytest.mark.parametrize(
    ('kind', 'to', 'name'),
    [
        ('vit', 'openclip', 'file.safetensors'),
        ('vit', 'openclip', 'folder'),
        ('vit', 'huggingface', 'folder'),
        ('resnet', 'openclip', 'folder'),
        ('siglip', 'openclip', 'file.safetensors'),
        ('siglip', 'huggingface', 'folder'),
        ('slip', 'clipdense', 'file.safetensors'),
    ],
)
def test_there_and_back(tmp_path, kind, to, name):
    clip = make(SIZES[kind])
    clip.preprocess = Preprocess(clip.size.image.image_size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 'bilinear')
    save(clip, tmp_path / 'clip.safetensors')
    written = convert(tmp_path / 'clip.safetensors', tmp_path / name, to)
    assert written.is_file()
    known = {} if '.' not in name or to == 'clipdense' else {'activation': clip.size.text.activation}
    back = convert(tmp_path / name, tmp_path / 'back.safetensors', **known)
    found = load(back)
    assert_same_model(found, clip)
    if not known:
        assert found.preprocess == clip.preprocess


def test_dtypes_are_kept(tmp_path, golden_path):
    source = golden_path('openai_clip_vit_tiny_jit.pt')
    written = read_weights(convert(source, tmp_path / 'a.safetensors', 'openclip')).tensors
    for name, tensor in read_weights(source).tensors.items():
        if name not in ('input_resolution', 'context_length', 'vocab_size'):
            assert written[name].dtype == tensor.dtype
            assert torch.equal(written[name], tensor)


IMPOSSIBLE = {
    'ResNet': ('resnet', 'folder', 'huggingface', 'no CLIP with a ResNet'),
    'SLIP to Hugging Face': ('slip', 'folder', 'huggingface', 'no CLIP with a SLIP tower'),
    'SLIP to open_clip': ('slip', 'folder', 'openclip', 'no counterpart in open_clip'),
    'small SigLIP': ('siglip', 'folder', 'openclip', 'timm has no SigLIP tower of width 64'),
    'layout': ('vit', 'folder', 'hugingface', "unknown layout 'hugingface'.* Did you mean 'huggingface'"),
    'suffix': ('vit', 'file.pt', 'clipdense', 'must name a .safetensors file'),
    'suffix of open_clip': ('vit', 'file.pt', 'openclip', 'must name a .safetensors file'),
    'file for a folder': ('vit', 'file.safetensors', 'huggingface', 'is a folder'),
    'source': ('vit', 'clip.safetensors', 'clipdense', 'is the source itself'),
    'there already': ('vit', 'other.safetensors', 'clipdense', 'is there already: pass overwrite=True'),
}


@pytest.mark.parametrize('name', IMPOSSIBLE)
def test_what_cannot_be_converted(tmp_path, name):
    kind, destination, to, message = IMPOSSIBLE[name]
    save(make(SIZES[kind]), tmp_path / 'clip.safetensors')
    (tmp_path / 'other.safetensors').write_bytes(b'old')
    with pytest.raises(InputError, match=message):
        convert(tmp_path / 'clip.safetensors', tmp_path / destination, to)
    assert (tmp_path / 'other.safetensors').read_bytes() == b'old'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['clip.safetensors', 'other.safetensors']


def test_overwrite(tmp_path):
    clip = make(VIT)
    save(clip, tmp_path / 'clip.safetensors')
    (tmp_path / 'other.safetensors').write_bytes(b'old')
    convert(tmp_path / 'clip.safetensors', tmp_path / 'other.safetensors', overwrite=True)
    assert_same_model(load(tmp_path / 'other.safetensors'), clip)
    with pytest.raises(InputError, match='source itself'):
        convert(tmp_path / 'clip.safetensors', tmp_path / 'clip.safetensors', overwrite=True)


def test_mixed_activations_have_no_open_clip_config(tmp_path):
    path = write(make(VIT), 'openclip_vit', tmp_path / 'weights.safetensors')
    options = {'activation': 'gelu', 'text_activation': 'quick_gelu'}
    with pytest.raises(InputError, match='one activation for both towers'):
        convert(path, tmp_path / 'folder', 'openclip', **options)


def test_odd_ratios_survive_rounding():
    from clipdense.clip.convert import _ratio

    for width, hidden in [
        (1664, 8192),
        (1408, 6144),
        (1152, 4304),
        (64, 96),
        (48, 97),
        (112, 115),
        (768, 3072),
    ]:
        assert int(width * _ratio(hidden, width)) == hidden
    assert math.isclose(_ratio(3072, 768), 4.0)
