"""Pre-training that starts from a supervised ViT, a CLIP or a BLIP, and from a BERT."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer as TimmVit
from torch.nn import functional as F
from torch.testing import assert_close

from clipdense.clip.checkpoint import save as save_clip
from clipdense.clip.model import build_clip
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.methods.blip.checkpoint import save
from clipdense.methods.blip.model import build_blip
from clipdense.methods.blip.sizes import BlipSize, MedSize, SpecialIds
from clipdense.registry import build_module
from clipdense.utils.errors import CheckpointError, InputError

transformers = pytest.importorskip('transformers')

IDS = SpecialIds(pad=0, cls=2, sep=3, dec=58, enc=59)
IMAGE = VitSize(32, 8, 24, 2, 3, 48, 16, activation='gelu', flavour='slip')
TEXT = MedSize(32, 2, 4, 48, vocab_size=60, context_length=20, ids=IDS)
SIZE = BlipSize(IMAGE, TEXT, embed_dim=16)
CLIP_TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16, vocab_size=50)


def build(size=SIZE, **weights):
    """Always with the same random weights."""
    torch.manual_seed(0)
    return build_blip(size, **weights).eval()


def timm_vit(side=32, **options):
    torch.manual_seed(1)
    return TimmVit(side, 8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2, num_classes=5, **options).eval()


def bert(kind='BertForPreTraining', **options):
    torch.manual_seed(2)
    values = {
        'vocab_size': 58,
        'hidden_size': 32,
        'num_hidden_layers': 2,
        'num_attention_heads': 4,
        'intermediate_size': 48,
        'max_position_embeddings': 24,
        'initializer_range': 0.3,
    }
    return getattr(transformers, kind)(transformers.BertConfig(**{**values, **options})).eval()


def images(side=32):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(3))


def tokens_of(tower, pixels):
    layers, _ = tower.forward_layers(pixels, [len(tower.blocks)])
    return tower.norm_post(layers[len(tower.blocks)])


def different(one, other):
    """Names of tensors that differ."""
    return {
        name for name, tensor in one.state_dict().items() if not torch.equal(tensor, other.state_dict()[name])
    }


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_supervised_vit(tmp_path, wrapped):
    """The file of DeiT has its tensors under 'model'."""
    vit = timm_vit()
    torch.save({'model': vit.state_dict()} if wrapped else vit.state_dict(), tmp_path / 'deit.pth')
    blip = build(image_weights=tmp_path / 'deit.pth')
    with torch.no_grad():
        assert_close(blip.encode_image(images()), vit.forward_features(images()), atol=1e-5, rtol=1e-5)
    assert {name.split('.')[0] for name in different(blip, build())} == {'image'}
    assert blip.preprocess == build().preprocess  # the release keeps the normalization of CLIP


def test_positions_are_resized(tmp_path):
    vit = timm_vit(48)
    torch.save(vit.state_dict(), tmp_path / 'vit.pth')
    positions = build(image_weights=str(tmp_path / 'vit.pth')).image.pos_embed
    grid = vit.pos_embed[0, 1:].detach().unflatten(0, (6, 6)).permute(2, 0, 1)[None]
    expected = F.interpolate(grid, (4, 4), mode='bicubic', align_corners=False)[0].flatten(1).T
    assert_close(positions[1:].detach(), expected)
    assert_close(positions[0].detach(), vit.pos_embed[0, 0].detach())


@pytest.mark.parametrize('flavour', ['slip', 'openai'])
def test_the_image_tower_of_a_clip(tmp_path, flavour):
    torch.manual_seed(4)
    image = replace(IMAGE, flavour=flavour)
    clip = build_clip(ClipSize(image, CLIP_TEXT), preprocess=Preprocess.named('imagenet', 32)).eval()
    save_clip(clip, tmp_path / 'clip.safetensors')
    size = replace(SIZE, image=replace(image, embed_dim=8), image_eps=clip.image.norm_post.eps)
    blip = build(size, image_weights=tmp_path / 'clip.safetensors')
    with torch.no_grad():
        assert_close(blip.encode_image(images()), tokens_of(clip.image, images()), atol=1e-5, rtol=1e-5)
    assert blip.preprocess.mean == clip.preprocess.mean
    assert blip.preprocess.resize == 'squash'
    own = Preprocess.named('openai', 32)
    assert build(size, preprocess=own, image_weights=tmp_path / 'clip.safetensors').preprocess == own


def test_a_resnet_of_a_clip_and_the_tower_of_a_blip(tmp_path):
    resnet = ResNetSize(image_size=32, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=16)
    clip = build_clip(ClipSize(resnet, CLIP_TEXT)).eval()
    save_clip(clip, tmp_path / 'clip.safetensors')
    size = replace(SIZE, image=resnet)
    blip = build(size, image_weights=tmp_path / 'clip.safetensors')
    assert not different(blip.image, clip.image)
    save(blip, tmp_path / 'blip.safetensors')
    other = build(size, image_weights=tmp_path / 'blip.safetensors')
    assert not different(other.image, clip.image)


@pytest.mark.parametrize('kind', ['BertModel', 'BertForPreTraining', 'BertForMaskedLM'])
@pytest.mark.parametrize('file', ['folder', 'old.bin'])
@pytest.mark.filterwarnings('ignore:.*has no language modeling head')
def test_a_text_alone_is_encoded_as_by_bert(tmp_path, kind, file):
    """1e-5, padding included; a file from before 2019 has gamma and beta."""
    model = bert(kind)
    if file == 'folder':
        model.save_pretrained(tmp_path / file)
    else:
        old = {'LayerNorm.weight': 'LayerNorm.gamma', 'LayerNorm.bias': 'LayerNorm.beta'}
        state = model.state_dict()
        for new, name in old.items():
            state = {key.replace(new, name): tensor for key, tensor in state.items()}
        torch.save(state, tmp_path / file)
    blip = build(text_weights=str(tmp_path / file))
    ids = torch.randint(1, 58, (3, 20), generator=torch.Generator().manual_seed(5))
    keep = torch.ones_like(ids)
    keep[1, 7:] = keep[2, 12:] = 0
    with torch.no_grad():
        expected = getattr(model, 'bert', model)(ids, attention_mask=keep).last_hidden_state
        found = blip.encoder(ids, keep)
    assert_close(found[keep > 0], expected[keep > 0], atol=1e-5, rtol=1e-5)


def test_the_decoder_starts_from_bert_too(tmp_path):
    """Its own self-attention and its head; the shared layers stay shared."""
    model = bert()
    model.save_pretrained(tmp_path)
    blip, states = build(text_weights=tmp_path), torch.randn(2, 4, 32)
    layers = zip(blip.encoder.layers, blip.decoder.layers, strict=True)
    for encoder, decoder in layers:
        assert encoder.cross is decoder.cross
        assert not different(encoder.self_attn, decoder.self_attn)
    with torch.no_grad():
        assert_close(
            blip.decoder.scores(states)[..., :58], model.cls.predictions(states), atol=1e-5, rtol=1e-5
        )
    fresh = build()
    started = different(blip, fresh)
    matrices = {
        name
        for name, x in blip.state_dict().items()
        if x.ndim > 1 and name.startswith(('encoder', 'decoder'))
    }
    assert {name for name in matrices if name not in started} == {
        name for name in matrices if '.cross.' in name
    }
    assert not [name for name in started if not name.startswith(('encoder', 'decoder'))]
    assert torch.equal(blip.encoder.embed.words.weight[58:], fresh.encoder.embed.words.weight[58:])
    assert blip.decoder.head.bias[58:].tolist() == [0, 0]


def test_a_model_for_questions_starts_both_of_its_stacks(tmp_path):
    bert().save_pretrained(tmp_path)
    blip = build(replace(SIZE, shared=False, embed_dim=0), text_weights=tmp_path)
    assert blip.decoder.embed is not blip.encoder.embed
    assert different(blip.decoder.embed, blip.encoder.embed) == {'words.weight'}  # of the two added ids
    assert torch.equal(blip.decoder.embed.words.weight[:58], blip.encoder.embed.words.weight[:58])


def test_a_bert_without_a_head(tmp_path):
    bert('BertModel').save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match='no language modeling head: that of the decoder stays random'):
        blip = build(text_weights=tmp_path)
    assert not different(blip.decoder.head, build().decoder.head)


def test_in_a_config(tmp_path):
    torch.save(timm_vit().state_dict(), tmp_path / 'vit.pth')
    bert().save_pretrained(tmp_path / 'bert')
    weights = {'image_weights': str(tmp_path / 'vit.pth'), 'text_weights': str(tmp_path / 'bert')}
    torch.manual_seed(0)
    blip = build_module({'type': build_blip, 'size': SIZE.to_dict(), **weights})
    assert not different(blip, build(**weights))


def vit_file(folder, change=None, **options):
    state = timm_vit(**options).state_dict()
    torch.save(state if change is None else change(state), folder / 'vit.pth')
    return {'image_weights': folder / 'vit.pth'}


def clip_file(folder, **change):
    clip = build_clip(ClipSize(replace(IMAGE, **change), CLIP_TEXT))
    save_clip(clip, folder / 'clip.safetensors')
    return {'image_weights': folder / 'clip.safetensors'}


def bert_file(folder, **options):
    bert(**options).save_pretrained(folder)
    return {'text_weights': folder}


def text_file(folder, state):
    save_file(state, folder / 'bert.safetensors')
    return {'text_weights': folder / 'bert.safetensors'}


def with_config(folder, **values):
    bert().save_pretrained(folder)
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**config, **values}))
    return {'text_weights': folder}


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        (lambda at: vit_file(at, lambda s: {**s, 'dist_token': s['cls_token']}), 'distilled ViT'),
        (lambda at: vit_file(at, global_pool='avg'), r'missing \(norm_post.weight.*unexpected \(fc_norm'),
        (lambda at: vit_file(at, init_values=1.0), 'unexpected .*blocks.0.ls1.gamma'),
        (
            lambda at: vit_file(at, lambda s: {k: v for k, v in s.items() if 'blocks.1.norm1' not in k}),
            r'2 missing \(blocks.1.norm1.weight',
        ),
        (
            lambda at: vit_file(at, lambda s: {**s, 'pos_embed': s['pos_embed'][:, :-1]}),
            'no|not form a square',
        ),
        (
            lambda at: vit_file(at, lambda s: {**s, 'norm.bias': s['norm.bias'] * float('nan')}),
            'norm_post.bias',
        ),
        (lambda at: {'image_weights': at / 'gone.pth'}, 'gone.pth'),
        (
            lambda at: {'image_weights': 'timm/deit_base_patch16_224.fb_in1k'},
            'not cached .* disables downloads',
        ),
        (lambda at: clip_file(at, activation='quick_gelu'), "activation='quick_gelu'.* set image.activation"),
        (lambda at: clip_file(at, num_heads=4), 'num_heads=4.* set image.num_heads'),
        (lambda at: clip_file(at, patch_size=4), 'patch_size=4'),
        (lambda at: clip_file(at, flavour='openai'), "flavour='openai'.* set image.flavour"),
        (lambda at: clip_file(at, layers=3), r'unexpected \(blocks.2.norm1.weight'),
        (lambda at: clip_file(at, width=48), 'of another shape'),
        (lambda at: {'text_weights': 'bert-base-uncased'}, 'google-bert/bert-base-uncased is not cached'),
        (lambda at: {'text_weights': ''}, "text_weights must be a name or path, got ''"),
        (lambda at: bert_file(at, vocab_size=60), r'has 60 words, the text transformer 60 ids.*\[DEC\]'),
        (lambda at: bert_file(at, max_position_embeddings=10), 'set context_length=10'),
        (lambda at: bert_file(at, num_hidden_layers=3), r'unexpected \(layers.2'),
        (lambda at: bert_file(at, num_hidden_layers=1), r'missing \(layers.1'),
        (lambda at: bert_file(at, intermediate_size=40), 'layers.0.feed.mlp.fc1.weight is'),
        (lambda at: bert_file(at, num_attention_heads=2), 'has num_heads=2.* num_heads=4'),
        (lambda at: with_config(at, model_type='roberta'), "model_type 'roberta'"),
        (lambda at: with_config(at, hidden_act='relu'), "hidden_act='relu'"),
        (lambda at: text_file(at, {'a': torch.zeros(2)}), 'is not a BERT'),
        (
            lambda at: text_file(
                at, {f'roberta.{name}': x.clone() for name, x in bert('BertModel').state_dict().items()}
            ),
            'is not a BERT',
        ),
    ],
)
@pytest.mark.filterwarnings('ignore:.*has no language modeling head')
def test_weights_that_are_refused(tmp_path, monkeypatch, weights, message):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(InputError, match=message):
        build(**weights(tmp_path))


def test_towers_of_other_kinds(tmp_path):
    resnet = ResNetSize(image_size=32, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=16)
    with pytest.raises(InputError, match='is a ViT, the image tower of the BLIP a ResNet'):
        build(replace(SIZE, image=resnet), **vit_file(tmp_path))
    with pytest.raises(InputError, match='is a Vit, that of the BLIP a ResNet: set image=VitSize'):
        build(replace(SIZE, image=resnet), **clip_file(tmp_path))
    with pytest.raises(InputError, match='have eps=1e-06, those of the BLIP 1e-05: set image_eps=1e-06'):
        build(replace(SIZE, image_eps=1e-5), **clip_file(tmp_path))
    torch.save({'text_model.embeddings.token_embedding.weight': torch.zeros(3, 4)}, tmp_path / 'text.pth')
    with pytest.raises(CheckpointError):
        build(image_weights=tmp_path / 'text.pth')
