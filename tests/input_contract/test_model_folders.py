"""The tables below "Model folders" of docs/input_contract.md."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import torch

from clipdense.clip.model import build_clip
from clipdense.clip.preprocess import STATISTICS, Preprocess
from clipdense.clip.sizes import TextSize
from clipdense.clip.tokenizers import FolderTokenizer, TokenizerRules
from clipdense.inference.load import load
from clipdense.vocab.byte_pairs import openai_byte_pairs

from ..clip import conftest as clips
from ..clip.conftest import VIT, write
from ..vocab.hub_tokenizers import bert, nllb
from . import one_tower

SECTION = 'Model folders'

SIDE = {'height': 16, 'width': 16}
IMAGES = {'image_processor_type': 'CLIPImageProcessor', 'size': {'shortest_edge': 16}, 'crop_size': SIDE}
TOWER = {'num_attention_heads': 1, 'hidden_act': 'gelu', 'hidden_size': 64}
CONFIG = {
    'model_type': 'clip',
    'vision_config': {**TOWER, 'image_size': 16},
    'text_config': {**TOWER, 'eos_token_id': 49},
}
OPEN_CLIP = {
    'embed_dim': 32,
    'vision_cfg': {'image_size': 16, 'layers': 2, 'width': 64, 'patch_size': 4, 'mlp_ratio': 1.5},
    'text_cfg': {'width': 64, 'heads': 1, 'layers': 2, 'context_length': 12, 'vocab_size': 50},
}
IDS = torch.tensor([[48, 7, 49, 9, 0], [48, 9, 9, 49, 3]])
NAMES = {'<s>': 0, '</s>': 1, 'a': 2, 'cat': 3, 'sks': 4}


def make(size):
    """A random CLIP with a plausible logit scale."""
    clip = clips.make(size)
    clip.logit_scale.data.fill_(2.66)
    return clip


def hugging_face(folder, config=CONFIG, images=IMAGES, clip=None, **files):
    """A folder of Hugging Face; None leaves out a file."""
    write(clip or make(VIT), 'huggingface_clip', folder / 'model.safetensors')
    for name, values in {'config': config, 'preprocessor_config': images, **files}.items():
        if values is not None:
            text = values if isinstance(values, str) else json.dumps(values)
            (folder / f'{name}.json').write_text(text)
    return load(folder, device='cpu')


def changed(tower=None, **values):
    return {**CONFIG, **({f'{tower}_config': {**CONFIG[f'{tower}_config'], **values}} if tower else values)}


def pooled_at(folder, positions, config):
    clip = make(VIT)
    found = hugging_face(folder, config, clip=clip).encode_text(IDS)
    embeddings = clip.text.token_embed(IDS)
    expected = clip.text.project(clip.text.forward_embeddings(embeddings, torch.tensor(positions)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def large_vocabulary(folder):
    text = TextSize(64, 2, 1, 96, 32, 49410, 12, 'gelu')
    write(make(replace(VIT, text=text)), 'openclip_vit', folder / 'weights.safetensors')
    load(folder / 'weights.safetensors', device='cpu', activation='gelu')


def open_clip(folder, text=None, beside=None, **images):
    name = 'model' if beside else 'open_clip_model'
    write(make(VIT), 'openclip_vit', folder / f'{name}.safetensors')
    text = {**OPEN_CLIP['text_cfg'], **(text or {})}
    config = {'model_cfg': {**OPEN_CLIP, 'text_cfg': text}, 'preprocess_cfg': images or {'mean': 0.5}}
    (folder / ('config.json' if beside else 'open_clip_config.json')).write_text(json.dumps(beside or config))
    return load(folder, device='cpu')


def pools_of_open_clip(folder):
    assert open_clip(folder).size.text.eos_token_id is None
    assert open_clip(folder, text={'pool_type': 'eos', 'eos_id': 7}).size.text.eos_token_id == 7


def preprocessed(folder, expected, **files):
    assert hugging_face(folder, **files).preprocess == expected


def sizes(folder):
    for size in (16, {'shortest_edge': 16}):
        preprocessed(folder, Preprocess(16), images={**IMAGES, 'size': size})
    preprocessed(folder, Preprocess(16, resize='squash'), images={**IMAGES, 'size': SIDE})


def ranges(folder):
    plain = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    preprocessed(folder, Preprocess(16, *plain), images={**IMAGES, 'do_normalize': False})
    middle = {'do_rescale': False, 'image_mean': [127.5] * 3, 'image_std': [127.5] * 3}
    preprocessed(folder, Preprocess(16, *STATISTICS['half']), images={**IMAGES, **middle})
    found = hugging_face(folder, images={**IMAGES, 'rescale_factor': 1 / 127.5}).preprocess
    assert abs(found.mean[0] * 2 - STATISTICS['openai'][0][0]) < 1e-6


def group_vit(folder):
    from clipdense.methods.groupvit.checkpoint import save_huggingface
    from clipdense.methods.groupvit.model import build_group_vit
    from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize

    stages = tuple(StageSize(1, 32, 2, *groups) for groups in ((6, 6), (3, 3), (0, 0)))
    image = GroupVitImageSize(16, 4, stages, embed_dim=16, projector_width=24, mlp_ratio=4)
    size = GroupVitSize(image, TextSize(32, 1, 2, 64, 16, 50, 8), False, False)
    save_huggingface(build_group_vit(size), folder)
    (folder / 'preprocessor_config.json').write_text(json.dumps(IMAGES))
    found = load(folder, device='cpu').preprocess
    assert (found.mean, found.interpolation) == (STATISTICS['imagenet'][0], 'bilinear')


def tokenizer(folder, config=True, text='a cat', **options):
    """Token ids of a folder with a vocabulary of five words."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(options.get('names', NAMES), '<s>'))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    ends = [('<s>', 0), ('</s>', options.get('end', 1))]
    made.post_processor = tokenizers.processors.TemplateProcessing('<s> $A </s>', special_tokens=ends)
    special = {'eos_token': '</s>', 'pad_token': '</s>', 'tokenizer_class': 'PreTrainedTokenizerFast'}
    model = changed('text', eos_token_id=1)
    files = {'tokenizer': made.to_str(), 'tokenizer_config': special if config else None}
    clip = hugging_face(folder, model, **{**files, **options.get('files', {})})
    return clip.tokenizer(text)[0].tolist()


def openai_vocabulary(folder):
    text = TextSize(64, 1, 1, 64, 32, activation='gelu')
    size = replace(VIT, text=text)
    config = changed('text', eos_token_id=49407)
    for files in ({}, {'vocab': openai_byte_pairs().vocabulary()}):
        row = hugging_face(folder, config, clip=build_clip(size).eval(), **files).tokenizer('A cat')[0]
        assert row[:5].tolist() == [49406, 320, 2368, 49407, 0]


def languages(folder):
    size = TextSize(64, 1, 1, 64, 32, 300, 12, 'gelu', 'siglip')
    files = nllb(folder / 'nllb')
    row = FolderTokenizer(files, size)('a cat')[0]
    assert FolderTokenizer(files, size, TokenizerRules(language='eng_Latn'))('a cat')[0].equal(row)
    german = FolderTokenizer(files, size, TokenizerRules(language='deu_Latn'))('a cat')[0]
    assert (german[1:].tolist(), german[0] == row[0]) == (row[1:].tolist(), False)


def same_ids(folder, ids, **options):
    assert tokenizer(folder, **options)[: len(ids)] == ids


READ = {
    '`config.json` of a CLIP': lambda f: pooled_at(f, [2, 3], CONFIG),
    '`eos_token_id` of a CLIP': lambda f: pooled_at(f, [3, 1], changed('text', eos_token_id=9)),
    '`eos_token_id` 2 of a CLIP (transformers before 4.31)': lambda f: pooled_at(
        f, [2, 3], changed('text', eos_token_id=2)
    ),
    '`eos_token_id` outside of the vocabulary': lambda f: hugging_face(f, changed('text', eos_token_id=50)),
    'vocabulary of more than 49,408 tokens without a config': large_vocabulary,
    '`config.json` of a SigLIP beside tensors of a CLIP': lambda f: hugging_face(
        f, changed(model_type='siglip')
    ),
    '`config.json` of another `model_type`': lambda f: hugging_face(f, changed(model_type='chinese_clip')),
    '`config.json` of one tower beside tensors of both': lambda f: hugging_face(
        f, changed(model_type='clip_text_model')
    ),
    '`config.json` with other widths than the tensors': lambda f: hugging_face(
        f, changed('text', hidden_size=512)
    ),
    '`config.json` with another `image_size` than the tensors': lambda f: hugging_face(
        f, changed('vision', image_size=224)
    ),
    '`config.json` with another vocabulary than the tensors': lambda f: hugging_face(
        f, changed('text', vocab_size=49408)
    ),
    'heads that do not divide the width': lambda f: hugging_face(f, changed('text', num_attention_heads=7)),
    'a word where a number belongs': lambda f: hugging_face(f, changed('text', num_attention_heads='twelve')),
    'a list where an object belongs': lambda f: hugging_face(f, changed(text_config=[1])),
    'damaged `config.json`': lambda f: hugging_face(f, '{"model_type": "clip"'),
    'no `config.json`': lambda f: hugging_face(f, None),
    'text pooling of open_clip: `argmax`, or `eos` with `eos_id`': pools_of_open_clip,
    'another text pooling of open_clip': lambda f: open_clip(f, text={'pool_type': 'last'}),
    'tensors of open_clip in a folder with a `config.json` of Hugging Face': partial(
        open_clip, beside=CONFIG
    ),
    '`preprocessor_config.json`': lambda f: preprocessed(
        f, Preprocess(16, interpolation='bilinear'), images={**IMAGES, 'resample': 2}
    ),
    '`processor_config.json` with `image_processor`': lambda f: preprocessed(
        f,
        Preprocess(16, interpolation='bilinear'),
        images=None,
        processor_config={'image_processor': {**IMAGES, 'resample': 2}},
    ),
    'both, with different settings': lambda f: preprocessed(
        f,
        Preprocess(16, interpolation='bilinear'),
        processor_config={'image_processor': {**IMAGES, 'resample': 2}},
    ),
    'neither': lambda f: preprocessed(f, Preprocess(16), images=None),
    'size as a number, `shortest_edge`, or `height` and `width`': sizes,
    '`do_normalize`, `do_rescale` or another `rescale_factor`': ranges,
    'interpolation other than nearest, bilinear, bicubic': lambda f: hugging_face(
        f, images={**IMAGES, 'resample': 1}
    ),
    'no resize, or no crop to a square': lambda f: hugging_face(
        f, images={**IMAGES, 'do_center_crop': False}
    ),
    'crop to another size than the resize': lambda f: hugging_face(f, images={**IMAGES, 'crop_size': 12}),
    'images of another size than the model': lambda f: hugging_face(
        f, images={**IMAGES, 'size': 224, 'crop_size': 224}
    ),
    'an image processor of another kind': lambda f: hugging_face(
        f, images={**IMAGES, 'image_processor_type': 'ViltImageProcessor'}
    ),
    '`preprocess_cfg` of open_clip': lambda f: open_clip(f, mean=[0.5, 0.5, 0.5], resize_mode='squash'),
    'resize mode `longest` of open_clip': lambda f: open_clip(f, resize_mode='longest'),
    'GroupViT with the image statistics of CLIP, as published': group_vit,
    "OpenAI's vocabulary": openai_vocabulary,
    'added tokens': lambda f: same_ids(f, [0, 2, 4, 3, 1], text='a sks cat'),
    '`tokenizer.json` without `tokenizer_config.json`': lambda f: same_ids(
        f,
        [0, 2, 3, 1],
        config=False,
        names={'<|startoftext|>': 0, '<|endoftext|>': 1, 'a': 2, 'cat': 3, '<s>': 4, '</s>': 5},
    ),
    'tokenizer of NLLB': languages,
    '`language` that the tokenizer does not have': lambda f: FolderTokenizer(
        nllb(f / 'nllb'), VIT.text, TokenizerRules(language='deu_Lat')
    ).encode('a'),
    '`language` for a tokenizer that does not mark it': lambda f: FolderTokenizer(
        bert(f / 'bert'), VIT.text, TokenizerRules(language='deu_Latn')
    ).encode('a'),
    "no tokenizer, and a vocabulary other than OpenAI's": lambda f: hugging_face(f).tokenizer('a cat'),
    'a tokenizer that ends texts with another id than the model expects': lambda f: tokenizer(f, end=3),
    'ids beyond the vocabulary of the model': lambda f: tokenizer(f, names={**NAMES, 'cat': 99}),
    'damaged `tokenizer.json`': lambda f: tokenizer(f, files={'tokenizer': '{"model": 3}'}),
    'damaged `tokenizer_config.json`': lambda f: tokenizer(f, files={'tokenizer_config': '<html>'}),
    **one_tower.READ,
}


def test_row(row, check):
    check(row, READ)
