"""Inputs of the table "One tower of a CLIP" of docs/input_contract.md."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.embedding_files import save_embeddings
from clipdense.clip.frozen_image import FrozenImage
from clipdense.clip.frozen_text import FrozenText
from clipdense.inference.classifier import Classifier
from clipdense.inference.load import load, load_segmenter, load_text_clip
from clipdense.inference.segmenter import Segmenter
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary

from ..clip.conftest import VIT, make, write

TOWER = {'num_attention_heads': 1, 'hidden_act': 'gelu', 'hidden_size': 64}
CONFIGS = {'vision': {**TOWER, 'image_size': 16}, 'text': {**TOWER, 'eos_token_id': 49}}
SIDE = {'height': 16, 'width': 16}
IMAGES = {'image_processor_type': 'CLIPImageProcessor', 'size': {'shortest_edge': 16}, 'crop_size': SIDE}
INDEX = 'model.safetensors.index.json'


def one(folder: Path, tower: str, projection: bool = True) -> Path:
    """A folder of Hugging Face with one tower, 'vision' or 'text'."""
    config = {'model_type': f'clip_{tower}_model', **CONFIGS[tower]}
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'preprocessor_config.json').write_text(json.dumps(IMAGES))
    file = write(make(VIT), 'huggingface_clip', folder / 'model.safetensors')
    names = (f'{tower}_model.', 'visual_' if tower == 'vision' else 'text_projection')
    names = names if projection else names[:1]
    save_file({name: x for name, x in load_file(file).items() if name.startswith(names)}, file)
    return folder


def shards(folder: Path, twice: bool = False, **changed: str) -> Path:
    """An image tower in two files."""
    file = one(folder, 'vision') / 'model.safetensors'
    tensors = load_file(file)
    file.unlink()
    names = sorted(tensors)
    parts = {'a.safetensors': names[:5], 'b.safetensors': names[4 if twice else 5 :]}
    for part, kept in parts.items():
        save_file({name: tensors[name] for name in kept}, folder / part)
    places = {name: part for part, kept in parts.items() for name in kept}
    (folder / INDEX).write_text(json.dumps({'weight_map': {**places, names[0]: 'a.safetensors', **changed}}))
    return folder


def pickled(folder: Path) -> Path:
    """The same with pickled files."""
    shards(folder)
    index = json.loads((folder / INDEX).read_text())
    places = {name: part.replace('safetensors', 'bin') for name, part in index['weight_map'].items()}
    for part in ('a', 'b'):
        torch.save(load_file(folder / f'{part}.safetensors'), folder / f'{part}.bin')
        (folder / f'{part}.safetensors').unlink()
    (folder / INDEX).unlink()
    (folder / 'pytorch_model.bin.index.json').write_text(json.dumps({'weight_map': places}))
    return folder


def embeds_names(folder: Path) -> None:
    clip = load(one(folder, 'text'), device='cpu')
    assert isinstance(clip, FrozenText)
    assert clip.encode_text(torch.tensor([[48, 7, 49]])).shape == (1, 32)
    assert PromptEnsemble(clip, cache=None).clip is clip


def embeds_images(folder: Path) -> None:
    one(folder, 'vision')
    gives_pixels(folder)


def gives_pixels(folder: Path) -> None:
    clip = load(folder, device='cpu')
    assert isinstance(clip, FrozenImage)
    assert clip.encode_dense(torch.zeros(1, 3, 16, 16)).shape == (1, 32, 4, 4)
    assert load_segmenter(clip, device='cpu').clip is clip


def in_shards(folder: Path) -> None:
    for kind in (shards, pickled):
        part = folder / kind.__name__
        part.mkdir()
        gives_pixels(kind(part))


def cut_off(folder: Path) -> None:
    file = write(make(VIT), 'openclip_vit', folder / 'weights.safetensors')
    save_file({n: x for n, x in load_file(file).items() if not n.startswith('visual.')}, file)
    assert isinstance(load(file, device='cpu', activation='gelu'), FrozenText)


def classifies(folder: Path) -> None:
    embeddings = ClassEmbeddings(torch.eye(2, 32), torch.arange(2), 2)
    save_embeddings(folder / 'names.safetensors', Vocabulary(('cat', 'dog')), embeddings)
    Classifier.from_pretrained(one(folder, 'vision'), embedder=folder / 'names.safetensors', device='cpu')


READ = {
    '`CLIPTextModelWithProjection`, `SiglipTextModel` (`model_type` such as `clip_text_model`)': embeds_names,
    '`CLIPVisionModelWithProjection`, `SiglipVisionModel`': embeds_images,
    'the same in shards (`model.safetensors.index.json`, `pytorch_model.bin.index.json`)': in_shards,
    'a file of OpenAI, open_clip or clipdense with one tower cut off': cut_off,
    '`CLIPTextModel`, `CLIPVisionModel`': lambda f: load(one(f, 'vision', projection=False)),
    'an image tower without class embeddings': lambda f: Segmenter.from_pretrained(one(f, 'vision')),
    'a text tower to segment, classify or detect': lambda f: Segmenter.from_pretrained(one(f, 'text')),
    'an image tower to embed class names': lambda f: load_text_clip(one(f, 'vision')),
    'an image tower without `logit_scale` to classify': classifies,
    'a setting of the other tower': lambda f: load(one(f, 'text'), num_heads=2),
    'a shard that does not exist': lambda f: load(shards(f, more='c.safetensors')),
    'a tensor in two shards': lambda f: load(shards(f, twice=True)),
    'a shard outside of the folder': lambda f: load(shards(f, more='../a.safetensors')),
}
