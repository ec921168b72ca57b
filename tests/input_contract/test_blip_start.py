"""Inputs of the section "Weights that a BLIP starts from" of docs/input_contract.md."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clipdense.clip.checkpoint import describe, load_any
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize
from clipdense.methods.blip.checkpoint import save
from clipdense.weights.io import write_weights

from ..methods.blip.test_start import (
    CLIP_TEXT,
    IMAGE,
    SIZE,
    bert,
    bert_file,
    build,
    clip_file,
    timm_vit,
    vit_file,
)

pytest.importorskip('transformers')

SECTION = 'Weights that a BLIP starts from'
RESNET = ResNetSize(image_size=32, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=16)


def vit(folder, change=None, **options):
    return build(**vit_file(folder, change, **options))


def deit(folder):
    torch.save({'model': timm_vit().state_dict()}, folder / 'deit.pth')
    assert torch.equal(build(image_weights=folder / 'deit.pth').image.class_token, timm_vit().cls_token[0, 0])


def tower(folder, kind):
    """A file with one tower of a CLIP."""
    clip = build_clip(ClipSize(IMAGE, CLIP_TEXT))
    tensors = {name: x for name, x in clip.state_dict().items() if name.startswith(kind)}
    write_weights(folder / f'{kind}.safetensors', tensors, describe(clip.size, clip.preprocess))
    return folder / f'{kind}.safetensors'


def towers(folder):
    clip_file(folder)
    save(build(), folder / 'blip.safetensors')
    for name in ('clip.safetensors', 'blip.safetensors'):
        build(image_weights=folder / name)
    build(image_weights=tower(folder, 'image'))


def old_names(folder):
    names = {'LayerNorm.weight': 'LayerNorm.gamma', 'LayerNorm.bias': 'LayerNorm.beta'}
    state = bert().state_dict()
    for new, old in names.items():
        state = {key.replace(new, old): tensor for key, tensor in state.items()}
    torch.save(state, folder / 'bert.bin')
    build(text_weights=folder / 'bert.bin')


def offline(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('HF_HUB_OFFLINE', '1')
        build(text_weights='bert-base-uncased')


def roberta(folder):
    torch.save({f'roberta.{name}': x for name, x in bert('BertModel').state_dict().items()}, folder / 'r.bin')
    build(text_weights=folder / 'r.bin')


def plain(folder):
    clip_file(folder)
    torch.save(load_any(folder / 'clip.safetensors').state_dict(), folder / 'clip.pth')
    build(image_weights=folder / 'clip.pth')


READ = {
    'CLIP whose file does not record its settings': plain,
    "ViT of timm, or DeiT's file with the entry `model`": lambda at: (vit(at), deit(at)),
    'ViT for images of another size': lambda at: vit(at, side=48),
    'CLIP, its image tower alone, or BLIP': towers,
    'BERT with its heads for pre-training': lambda at: build(**bert_file(at)),
    'BERT with `gamma` and `beta`': old_names,
    'BERT with more positions': lambda at: build(**bert_file(at, max_position_embeddings=24)),
    'BERT without a language modeling head': lambda at: build(**bert_file(at, kind='BertModel')),
    'distilled DeiT': lambda at: vit(at, lambda s: {**s, 'dist_token': s['cls_token']}),
    'ViT that pools by the mean': lambda at: vit(at, global_pool='avg'),
    'ViT without a tensor': lambda at: vit(
        at, lambda s: {name: x for name, x in s.items() if name != 'blocks.1.norm1.weight'}
    ),
    'ViT for a ResNet': lambda at: build(replace(SIZE, image=RESNET), **vit_file(at)),
    'CLIP with another activation': lambda at: build(**clip_file(at, activation='quick_gelu')),
    'CLIP with another eps of its normalizations': lambda at: build(
        replace(SIZE, image_eps=1e-5), **clip_file(at)
    ),
    "CLIP's text tower": lambda at: build(image_weights=tower(at, 'text')),
    'BERT with another vocabulary': lambda at: build(**bert_file(at, vocab_size=60)),
    'BERT with fewer positions': lambda at: build(**bert_file(at, max_position_embeddings=10)),
    'BERT with other heads in `config.json`': lambda at: build(**bert_file(at, num_attention_heads=2)),
    'RoBERTa': roberta,
    'name that is not cached, offline': offline,
    'empty name': lambda at: build(text_weights=''),
}


def test_row(row, check):
    check(row, READ)
