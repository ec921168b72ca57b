"""Every architecture of open_clip is a pair of towers; tiny models of each family give equal outputs."""

from __future__ import annotations

import json

import open_clip
import pytest
import timm
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from timm.models import register_model
from torch.testing import assert_close
from transformers import CONFIG_MAPPING

import clipdense
from clipdense.clip.checkpoint import convert, load, save
from clipdense.clip.checkpoint.config_files import from_zoo
from clipdense.clip.checkpoint.layouts import to_ours
from clipdense.clip.checkpoint.open_clip_models import open_clip_config, open_clip_size
from clipdense.clip.checkpoint.section import Section
from clipdense.clip.sizes import PUBLISHED, TextSize
from clipdense.clip.text import TextTransformer
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.weights import zoo

NOT_SUPPORTED = {  # architectures without published weights
    'ViT-M-16-alt': 'unsupported ls_init_value',
    'mt5-base-ViT-B-32': "unsupported hf_model_name='google/mt5-base'",
    'mt5-xl-ViT-H-14': "unsupported hf_model_name='google/mt5-xl'",
}


WITHOUT_DECODER = ('coca_ViT-B-32', 'coca_ViT-L-14', 'coca_base')  # open_clip cannot build them without


def size_of(name: str):
    return open_clip_size(Section(zoo.model_config(name), name))


@pytest.mark.parametrize('name', zoo.architectures())
def test_architectures(name):
    """The size of each, equal to our own table where it is there; its config gives it again."""
    if name in NOT_SUPPORTED:
        with pytest.raises(CheckpointError, match=NOT_SUPPORTED[name]):
            size_of(name)
        return
    size = size_of(name)
    assert size == PUBLISHED.get(name, size)
    if name in WITHOUT_DECODER:
        with pytest.raises(InputError, match='decoder of captions'):
            open_clip_config(size)
        return
    again = json.loads(json.dumps(open_clip_config(size)))
    assert open_clip_size(Section(again, name)) == size


def test_all_published_names():
    """Every name that open_clip lists resolves to a pair of towers with preprocessing."""
    names = open_clip.list_pretrained()
    for model, tag in names:
        recorded = from_zoo(zoo.find(f'{model}/{tag}'))
        assert recorded.preprocess is not None
        size = recorded.size or PUBLISHED.get(model) or size_of(model)
        assert size.image.embed_dim == size.text.embed_dim
    assert len(names) == 196


def tiny(name: str, **reduced) -> str:
    """Register a reduced architecture of timm, which open_clip takes by name."""

    def build(pretrained=False, **options):
        return timm.create_model(name, **{**reduced, **options})

    build.__name__, build.__module__ = f'small_{name}', 'timm.models.convnext'
    if not timm.is_model(build.__name__):
        register_model(build)
    return build.__name__


def trunk(name: str, pool: str, projection: str | None) -> dict:
    return {'image_size': 64, 'timm_model_name': name, 'timm_pool': pool, 'timm_proj': projection}


TEXT = {'context_length': 9, 'vocab_size': 60, 'width': 16, 'heads': 2, 'layers': 2}
VIT = {'image_size': 32, 'layers': 2, 'width': 32, 'head_width': 16, 'patch_size': 8}
CLIPA_VIT = {**VIT, 'no_ln_pre': True, 'pool_type': 'avg', 'final_ln_after_pool': True}
COCA_VIT = {**VIT, 'attentional_pool': True, 'attn_pooler_heads': 8, 'output_tokens': True}
COCA_TEXT = {**TEXT, 'embed_cls': True, 'output_tokens': True}
DECODER = {
    'custom_text': True,
    'multimodal_cfg': {**TEXT, 'attn_pooler_heads': 8},
}
LAST = {'pool_type': 'last', 'no_causal_mask': True}
SIGLIP_TEXT = {**LAST, 'norm_kwargs': {'eps': 1e-6}, 'width': 768, 'heads': 12, 'layers': 1}
SIGLIP = tiny('vit_base_patch16_siglip_256')
CONVNEXT = tiny('convnext_atto', depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))
BERT = dict(
    vocab_size=60,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    pad_token_id=1,
)
NLLB = dict(
    vocab_size=60,
    d_model=16,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=32,
    decoder_ffn_dim=32,
    pad_token_id=1,
)

FAMILIES = {  # vision_cfg, text_cfg or the config of a text encoder of transformers, other entries
    'ConvNeXt': (trunk(CONVNEXT, '', 'linear'), TEXT, {}),
    'ConvNeXt, MLP': (trunk(CONVNEXT, '', 'mlp'), TEXT, {}),
    'EVA': (
        trunk(tiny('eva_giant_patch14_224', depth=2, embed_dim=16, num_heads=2), 'token', None),
        TEXT,
        {},
    ),
    'EVA-02': (
        trunk(tiny('eva02_base_patch16_clip_224', depth=2, embed_dim=32, num_heads=2), 'token', None),
        TEXT,
        {'custom_text': True},
    ),
    'ViTamin': (trunk(tiny('vitamin_small_224', depth=1), '', 'linear'), TEXT, {'custom_text': True}),
    'MobileCLIP': (
        trunk(tiny('fastvit_mci0', layers=(1, 1, 1, 1), embed_dims=(16, 32, 64, 128)), 'avg', None),
        {**TEXT, 'no_causal_mask': True},
        {'custom_text': True},
    ),
    'PE': (trunk(tiny('vit_pe_core_tiny_patch16_384', depth=1), 'map', None), TEXT, {'custom_text': True}),
    'CLIPA': (CLIPA_VIT, {**TEXT, **LAST}, {}),
    'worldwide': (VIT, {**TEXT, 'pool_type': 'eos', 'eos_id': 2}, {}),
    'RoBERTa': (VIT, ('roberta', BERT, {'hf_pooler_type': 'mean_pooler'}), {'quick_gelu': True}),
    'XLM-R': (VIT, ('xlm-roberta', BERT, {'hf_pooler_type': 'mean_pooler'}), {}),
    'NLLB': (VIT, ('m2m_100', NLLB, {'hf_pooler_type': 'cls_pooler', 'hf_proj_type': 'linear'}), {}),
    'ConvNeXt and BERT': (
        trunk(CONVNEXT, '', 'linear'),
        ('bert', BERT, {'hf_pooler_type': 'cls_pooler', 'hf_proj_type': 'linear'}),
        {'custom_text': True},
    ),
    'CoCa': (COCA_VIT, COCA_TEXT, DECODER),
    'CoCa, pool of the width of the tower': ({**COCA_VIT, 'width': 16}, COCA_TEXT, DECODER),
    'CoCa, class token of the image': ({**VIT, 'output_tokens': True}, COCA_TEXT, DECODER),
    'CoCa with RoBERTa': (
        {**VIT, 'output_tokens': True},
        ('roberta', BERT, {'hf_proj_type': 'linear', 'output_tokens': True}),
        DECODER,
    ),
}


def write(folder, vision, text, more):
    """A model of open_clip with random weights, and its folder."""
    if isinstance(text, tuple):
        kind, options, text = text
        CONFIG_MAPPING[kind](**options).save_pretrained(folder / 'text')
        text = {
            'hf_model_name': str(folder / 'text'),
            'hf_model_pretrained': False,
            'context_length': 9,
            **text,
        }
    config = {'embed_dim': 16, 'vision_cfg': vision, 'text_cfg': text, **more}
    options = {key: value for key, value in config.items() if key != 'custom_text'}
    torch.manual_seed(0)
    custom = CoCa if 'multimodal_cfg' in more else CustomTextCLIP
    whole = custom if more.get('custom_text') or 'hf_model_name' in text else CLIP
    theirs = whole(**json.loads(json.dumps(options)))
    for name, parameter in theirs.named_parameters():
        if name != 'logit_scale':
            torch.nn.init.normal_(parameter, std=0.2)
    save_file(theirs.state_dict(), folder / 'open_clip_model.safetensors')
    entries = {'model_cfg': config, 'preprocess_cfg': {}}
    (folder / 'open_clip_config.json').write_text(json.dumps(entries))
    return theirs.eval()


def token_ids():
    ids = torch.randint(3, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    ids[0, 4], ids[1, 7], ids[2, 8] = 59, 59, 59  # the largest id ends a text
    ids[:, 3] = 2  # or this one, of the worldwide models
    ids[0, 5:], ids[1, 8:] = 1, 1
    return ids


def side(theirs) -> int:
    cfg = getattr(getattr(theirs.visual, 'trunk', None), 'default_cfg', None)
    return cfg['input_size'][-1] if cfg else 32


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_open_clip_gives_the_same(family, tmp_path):
    folder = tmp_path / 'model'
    folder.mkdir()
    theirs = write(folder, *FAMILIES[family])
    ours = load(folder)
    images, ids = torch.randn(2, 3, side(theirs), side(theirs)), token_ids()
    image, text = theirs.encode_image(images, normalize=False), theirs.encode_text(ids, normalize=False)
    assert_close(ours.encode_image(images), image, atol=1e-5, rtol=1e-5)
    assert_close(ours.encode_text(ids), text, atol=1e-5, rtol=1e-5)
    assert ours.encode_dense(images).shape[:2] == (2, 16)

    save(ours, tmp_path / 'ours.safetensors')  # self-describing: no other file is needed
    again = load(tmp_path / 'ours.safetensors')
    assert_close(again.encode_image(images), image, atol=1e-5, rtol=1e-5)
    assert_close(again.encode_text(ids), text, atol=1e-5, rtol=1e-5)

    if getattr(ours.size.text, 'flavour', '') == 'coca':
        with pytest.raises(InputError, match=r'decoder of captions of a CoCa \(text_decoder'):
            convert(tmp_path / 'ours.safetensors', tmp_path / 'back.safetensors', 'openclip')
        return
    back = convert(tmp_path / 'ours.safetensors', tmp_path / 'back.safetensors', 'openclip')
    written = safetensors(back)
    original = safetensors(folder / 'open_clip_model.safetensors')
    if not FAMILIES[family][2].get('custom_text') and 'timm_model_name' in FAMILIES[family][0]:
        original = {
            name if name.startswith(('visual.', 'logit')) else f'text.{name}': x
            for name, x in original.items()
        }
    original = {name: x for name, x in original.items() if not name.startswith('text_decoder.')}
    assert written.keys() == original.keys() - {'text.transformer.embeddings.position_ids'}
    assert all(torch.equal(written[name], original[name]) for name in written)


def safetensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_a_file_without_its_config(tmp_path):
    """The name of the architecture says what the tensors cannot."""
    write(tmp_path, *FAMILIES['ConvNeXt'])
    (tmp_path / 'open_clip_config.json').unlink()
    file = tmp_path / 'open_clip_model.safetensors'
    with pytest.raises(
        CheckpointError, match=r'cannot infer the architecture of the image tower.*pass model='
    ):
        load(file)
    with pytest.raises(CheckpointError, match='records width=640, but the tensors have width=16'):
        load(file, model='convnext_base_w')
    with pytest.raises(InputError, match=r"unknown architecture 'convnext_bas'.*'convnext_base'"):
        load(file, model='convnext_bas')


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ({'text_num_heads': 4}, 'records text_num_heads=2; remove the override text_num_heads=4'),
        ({'text_activation': 'quick_gelu'}, "records text_activation='gelu'"),
        ({'model': 'convnext_base'}, "records the model; remove the override model='convnext_base'"),
    ],
)
def test_contradictions(override, message, tmp_path):
    write(tmp_path, *FAMILIES['ConvNeXt'])
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path, **override)


@torch.no_grad()
def test_text_tower_without_projection():
    """SO400M-SigLIP-i18n."""
    theirs = open_clip.transformer.TextTransformer(
        context_length=9,
        vocab_size=60,
        width=16,
        heads=2,
        layers=2,
        output_dim=16,
        pool_type='last',
        no_causal_mask=True,
        proj_type='none',
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
    ).eval()
    ours = TextTransformer(TextSize(16, 2, 2, 64, 16, 60, 9, 'gelu', 'siglip_plain')).eval()
    tensors, leftover = to_ours(
        {f'text.{name}': x for name, x in theirs.state_dict().items()}, 'openclip_siglip'
    )
    assert not leftover
    ours.load_state_dict({name.removeprefix('text.'): x for name, x in tensors.items()})
    assert_close(ours.project(ours(token_ids())), theirs(token_ids()), atol=1e-5, rtol=1e-5)


def test_created_by_name():
    clip = clipdense.create_model('EVA02-B-16')
    assert clip.encode_text(clip.tokenizer(['a cat', 'a dog'])).shape == (2, 512)
    with pytest.raises(InputError, match=r"unknown model 'EVA02-B-15'.*'EVA02-B-16'"):
        clipdense.create_model('EVA02-B-15')
