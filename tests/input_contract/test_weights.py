"""The tables below "Weights" of docs/input_contract.md."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import os
import pickle
import struct
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from clipdense.clip import checkpoint
from clipdense.clip.checkpoint.layouts import from_ours
from clipdense.clip.embedding_files import load_embeddings
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, HFTextSize, ResNetSize, TextSize, TimmSize, VitSize
from clipdense.inference.classifier import Classifier
from clipdense.inference.convert import convert
from clipdense.inference.load import load
from clipdense.inference.segmenter import Segmenter
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.huggingface import HuggingFaceTokenizer
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights, write_weights
from clipdense.weights.zoo import find

SECTION = 'Weights'

TEXT = TextSize(64, 1, 1, 96, 32, 50, 77, 'gelu')
SIZES = {
    'vit': ClipSize(VitSize(16, 8, 64, 1, 1, 96, 32, 'gelu'), TEXT),
    'resnet': ClipSize(ResNetSize(64, 8, (1, 1, 1, 1), 4, 32), TEXT),
}
TINY = build_clip(SIZES['vit']).eval()
ABOUT = checkpoint.describe(TINY.size, TINY.preprocess)
OVERRIDES = {
    'activation': 'gelu',
    'text_activation': 'gelu',
    'num_heads': 1,
    'text_num_heads': 1,
    'preprocess': 'openai',
}


def state():
    return {name: tensor.clone() for name, tensor in TINY.state_dict().items()}


def same(model, tolerance=0.0):
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, TINY.state_dict()[name], atol=tolerance, rtol=0)


def torch_file(folder, value, tolerance=0.0, **options):
    """Load what ``torch.save`` wrote, with the metadata of a training checkpoint if it has entries."""
    torch.save(value, folder / 'clip.pt', **options)
    same(load(folder / 'clip.pt', 'cpu'), tolerance)


def entry(name, tensors=None, **others):
    return {name: state() if tensors is None else tensors, 'meta': {'clip': ABOUT}, **others}


def renamed(rule):
    return entry('state_dict', {rule(name): tensor for name, tensor in state().items()})


def changed(folder, change, **options):
    """Load a safetensors file of the tiny CLIP after a change of its tensors."""
    tensors = state()
    tensors = change(tensors) or tensors
    write_weights(folder / 'clip.safetensors', tensors, ABOUT)
    return load(folder / 'clip.safetensors', 'cpu', **options)


def assign(name, value):
    return lambda tensors: tensors.__setitem__(name, value(tensors[name]))


def scale(value):
    return lambda folder: changed(folder, assign('logit_scale', lambda _: torch.tensor(value)))


def spoil(value):
    return lambda tensor: tensor.index_fill(0, torch.tensor(1), value)


def file_of(content):
    def read(folder, name='clip.safetensors'):
        (folder / name).write_bytes(content)
        return load(folder / name)

    return read


def without_counters(folder):
    clip = build_clip(SIZES['resnet'])
    tensors = {n: t for n, t in clip.state_dict().items() if not n.endswith('num_batches_tracked')}
    write_weights(folder / 'clip.safetensors', tensors, checkpoint.describe(clip.size, clip.preprocess))
    assert torch.equal(load(folder / 'clip.safetensors', 'cpu').image.conv1.weight, clip.image.conv1.weight)


def official(folder):
    tensors = {n: t.contiguous() for n, t in from_ours(state(), 'openclip_vit').items()}
    save_file(tensors, folder / 'clip.safetensors')
    same(load(folder / 'clip.safetensors', 'cpu', **OVERRIDES))


def special(make):
    def read(folder):
        make(folder / 'clip.pt')
        return load(folder / 'clip.pt')

    return read


def index(content):
    def read(folder):
        names = sorted(state())
        for part in (0, 1):
            tensors = {name: state()[name] for name in names[part::2]}
            save_file(tensors, folder / f'part-{part}.safetensors')
        path = folder / 'model.safetensors.index.json'
        content_now = content(names) if callable(content) else content
        path.write_text(content_now if isinstance(content_now, str) else json.dumps(content_now))
        return read_weights(path).tensors

    return read


def whole_index(folder):
    parts = {name: f'part-{at % 2}.safetensors' for at, name in enumerate(sorted(state()))}
    assert index({'weight_map': parts})(folder).keys() == state().keys()


def compressed(folder):
    """A zip archive of 4 KB that would expand to 4 MB."""
    torch.save(entry('state_dict', {'a': torch.zeros(1_000_000)}), folder / 'plain.pt')
    with (
        zipfile.ZipFile(folder / 'plain.pt') as plain,
        zipfile.ZipFile(folder / 'clip.pt', 'w', zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    return load(folder / 'clip.pt')


def expanded(folder):
    """A tensor of one stored number that would take 4 TB."""
    torch.save({'a': torch.zeros(1).expand(1_000_000, 1_000_000)}, folder / 'clip.pt')
    return load(folder / 'clip.pt')


def many_expanded(folder):
    """A thousand tensors that share one number and would take 16 GB together."""
    one = torch.zeros(1)
    torch.save({f'a{number}': one.expand(4_000_000) for number in range(1000)}, folder / 'clip.pt')
    return load(folder / 'clip.pt')


class Runs:
    def __reduce__(self):
        return os.system, ('touch ran',)


def code(folder):
    (folder / 'clip.pt').write_bytes(pickle.dumps({'state_dict': Runs()}))
    try:
        load(folder / 'clip.pt')
    finally:
        assert not (folder / 'ran').exists()
        assert not os.path.exists('ran')


def deep_pickle(folder):
    (folder / 'clip.pt').write_bytes(b'\x80\x02' + b']' * 100_000 + b'a' * 99_999 + b'.')
    return load(folder / 'clip.pt')


def itself(folder):
    value: dict = {'state_dict': {}}
    value['state_dict']['state_dict'] = value['state_dict']
    torch.save(value, folder / 'clip.pt')
    return load(folder / 'clip.pt')


def npy(folder, change):
    rows = np.eye(2, 4, dtype=np.float32)
    change(rows)
    np.save(folder / 'names.npy', rows)
    return load_embeddings(folder / 'names.npy', Vocabulary(('cat', 'dog')))


class Fixed:
    def embed(self, vocabulary):
        return ClassEmbeddings(torch.eye(2, 32), torch.arange(2), 2)


def overflow(use):
    def read(folder):
        clip = build_clip(SIZES['vit']).eval()
        clip.image.norm_post.weight.data.fill_(1e38)
        clip.image.norm_post.bias.data.fill_(3e38)
        return use(clip)(Image.new('RGB', (16, 16), 'red'), ['cat', 'dog'])

    return read


def converted(folder):
    tensors = state()
    tensors['text.proj'][0, 0] = math.nan
    write_weights(folder / 'clip.safetensors', tensors, ABOUT)
    try:
        convert(folder / 'clip.safetensors', folder / 'out.safetensors', 'openclip')
    finally:
        assert not (folder / 'out.safetensors').exists()


def truncated(folder):
    write_weights(folder / 'whole.safetensors', state(), ABOUT)
    return file_of((folder / 'whole.safetensors').read_bytes()[:5000])(folder)


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def precision(name, dtype=torch.float32):
    """Classify with this precision and parameters of this type."""
    return lambda folder: Classifier(
        changed(folder, lambda tensors: None, dtype=dtype), Fixed(), precision=name
    )(Image.new('RGB', (9, 9)), ['a', 'b'])


def named(place):
    """Load 'me/clip' offline, where ``place`` of the working directory is the folder of a model."""

    def run(folder):
        (folder / place).mkdir(parents=True)
        write_weights(folder / place / 'model.safetensors', state(), ABOUT)
        settings = {'CLIPDENSE_OFFLINE': '1', 'CLIPDENSE_CACHE': 'cache', 'HF_HUB_CACHE': 'hub'}
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            for name, value in settings.items():
                patch.setenv(name, value)
            same(load('me/clip'))

    return run


def never_released(_):
    with pytest.raises(InputError, match='never released'):
        load('glipv2-t')
    load('GLIPv2_large.pth')


def same_weights(_):
    entries = [find('ViT-B-32/metaclip_400m'), find('ViT-B-32-quickgelu/metaclip_400m')]
    assert entries[0] == entries[1]
    assert entries[0].config['model_cfg']['quick_gelu'] is True


def without_transformers(folder):
    options = {'num_hidden_layers': 1, 'hidden_size': 16, 'num_attention_heads': 1, 'vocab_size': 9}
    size = HFTextSize('roberta', 32, 'mean_pooler', 'linear', 8, options | {'intermediate_size': 16})
    made = build_clip(ClipSize(SIZES['vit'].image, size))
    checkpoint.save(made, folder / 'clip.safetensors')
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'transformers', None)
        load(folder / 'clip.safetensors')


def without_sentencepiece(folder):
    (folder / 'spiece.model').write_bytes(b'x')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.util, 'find_spec', lambda name, package=None: None)
        HuggingFaceTokenizer(folder)


def timm_tower(folder, model='convnext_atto', rename=str):
    text = replace(TEXT, embed_dim=8)
    made = build_clip(ClipSize(TimmSize('convnext_atto', 32, 8, '', 'linear'), text))
    made.logit_scale.data.fill_(2.66)
    about = checkpoint.describe(made.size, made.preprocess)
    about['size'] = about['size'].replace('convnext_atto', model)
    tensors = {rename(name): tensor.contiguous() for name, tensor in made.state_dict().items()}
    write_weights(folder / 'clip.safetensors', tensors, about)
    load(folder / 'clip.safetensors')


READ = {
    # Containers
    'safetensors of clipdense': lambda folder: same(changed(folder, lambda tensors: None)),
    'official layout with overrides': official,
    'training checkpoint `{"state_dict": ..., "optimizer": ...}`': lambda folder: torch_file(
        folder, entry('state_dict', optimizer={'state': {0: {'step': torch.tensor(3)}}}, epoch=2)
    ),
    'container before torch 1.6': lambda folder: torch_file(
        folder, entry('state_dict'), _use_new_zipfile_serialization=False
    ),
    '`model`, `module`, `network`, `weights` or `model_state_dict` instead of `state_dict`': lambda folder: [
        torch_file(folder, entry(name))
        for name in ('model', 'module', 'network', 'weights', 'model_state_dict')
    ],
    'weights and their moving average': lambda folder: torch_file(
        folder, entry('state_dict', ema_state_dict={name: x + 1 for name, x in state().items()})
    ),
    'only a moving average (`ema_state_dict`, `state_dict_ema`, ...)': lambda folder: [
        torch_file(folder, entry(name)) for name in ('ema_state_dict', 'state_dict_ema', 'model_ema', 'ema')
    ],
    'only the state dicts `student` and `teacher`': lambda folder: torch_file(
        folder, {'student': state(), 'teacher': state()}
    ),
    'only an optimizer': lambda folder: torch_file(folder, {'optimizer': {'state': {}}, 'epoch': 3}),
    'list of tensors': lambda folder: torch_file(folder, list(state().values())),
    'pickle that calls a function': code,
    'state dict within itself': itself,
    'deeply nested pickle': deep_pickle,
    'compressed zip archive': compressed,
    'tensor that expands to 4 TB': expanded,
    'tensors that expand to 16 GB together': many_expanded,
    'index of several files': whole_index,
    'index that names itself': index(
        lambda names: {'weight_map': dict.fromkeys(names, 'model.safetensors.index.json')}
    ),
    'index that names `../clip.safetensors`': index(
        lambda names: {'weight_map': dict.fromkeys(names, '../clip.safetensors')}
    ),
    'index that names a tensor which its files lack': index(
        lambda names: {
            'weight_map': {**dict.fromkeys(names, 'part-0.safetensors'), 'x': 'part-1.safetensors'}
        }
    ),
    'index nested 100,000 levels deep': index('[' * 100_000),
    'index without `weight_map`': index({'metadata': {}}),
    # Not weights
    'name of a local folder': named('me/clip'),
    'repository in the cache of Hugging Face': named('hub/models--me--clip/snapshots/main'),
    'name of a model in the list with an unknown tag': lambda _: load('ViT-B-16/opnai'),
    'repository that is not cached, offline': named('elsewhere'),
    '`hf-hub:` before anything else than `ORGANIZATION/NAME`': lambda _: load('hf-hub:clip'),
    '`glipv2-t`, `GLIPv2_large.pth`': never_released,
    '`glip-t`, without such a file': lambda _: load('glip-t'),
    '`https://huggingface.co/me/clip`': lambda _: load('https://huggingface.co/me/clip'),
    '`ViT-B-32/metaclip_400m` and `ViT-B-32-quickgelu/metaclip_400m`': same_weights,
    '`ViT-B-32-quickgelu/laion2b_s34b_b79k`, which has `gelu`': lambda _: load(
        'ViT-B-32-quickgelu/laion2b_s34b_b79k'
    ),
    'text tower of transformers, which is not installed': without_transformers,
    'tokenizer of SentencePiece, which is not installed': without_sentencepiece,
    'architecture that the installed timm does not have': lambda folder: timm_tower(
        folder, model='convnext_atta'
    ),
    'names of tensors of another release of timm': lambda folder: timm_tower(
        folder, rename=lambda name: name.replace('conv_dw', 'dwconv')
    ),
    'missing file': lambda folder: load(folder / 'clip.pt'),
    'empty file': file_of(b''),
    'truncated file': truncated,
    'header of 90 MB in a file of 100 bytes': file_of(struct.pack('<Q', 90_000_000) + b'{' + b' ' * 91),
    'folder named `clip.pt`': special(lambda path: (path / 'x').mkdir(parents=True)),
    'link to a folder': special(lambda path: path.symlink_to(path.parent)),
    'named pipe (FIFO)': special(os.mkfifo),
    '`/dev/zero`': lambda folder: load('/dev/zero'),
    'image named `clip.pt`': file_of(b'\x89PNG\r\n\x1a\n' + bytes(600)),
    'web page': file_of(b'<!DOCTYPE html><html>log in</html>'),
    'git-lfs pointer': file_of(b'version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n'),
    # Names
    '`module.`': lambda folder: torch_file(folder, renamed('module.{}'.format)),
    '`_orig_mod.`': lambda folder: torch_file(folder, renamed('_orig_mod.{}'.format)),
    '`_orig_mod.module.`': lambda folder: torch_file(folder, renamed('_orig_mod.module.{}'.format)),
    '`_checkpoint_wrapped_module.` in the middle': lambda folder: torch_file(
        folder, renamed(lambda name: name.replace('blocks.0.', 'blocks.0._checkpoint_wrapped_module.'))
    ),
    '`image.module.`': lambda folder: torch_file(
        folder, renamed(lambda name: name.replace('image.', 'image.module.', 1))
    ),
    '`model.module._orig_mod.`': lambda folder: torch_file(
        folder, renamed('model.module._orig_mod.{}'.format)
    ),
    'averaged model with `n_averaged`': lambda folder: torch_file(
        folder,
        entry(
            'state_dict', {**{f'module.{n}': t for n, t in state().items()}, 'n_averaged': torch.tensor(3)}
        ),
    ),
    'names in other wrappers, or of another model': file_of(
        saved({f'backbone.{n}': t for n, t in state().items()})
    ),
    'ResNet without `num_batches_tracked`': without_counters,
    # Tensors
    '`float16`, `bfloat16` or `float64`': lambda folder: [
        torch_file(folder, entry('state_dict', {n: t.to(kind) for n, t in state().items()}), 0.01)
        for kind in (torch.float16, torch.bfloat16, torch.float64)
    ],
    'tensors that share memory': lambda folder: torch_file(
        folder,
        entry(
            'state_dict',
            {n: torch.cat([t.flatten(), t.flatten()])[: t.numel()].view(t.shape) for n, t in state().items()},
        ),
    ),
    'numbers and texts among the tensors': lambda folder: torch_file(
        folder, entry('state_dict', {**state(), 'epoch': 3, 'note': 'x'})
    ),
    'quantized weights (`int8`)': lambda folder: changed(
        folder, assign('text.proj', lambda x: x.to(torch.int8))
    ),
    '`int64`, `bool` or complex weights': lambda folder: changed(
        folder, assign('text.proj', lambda x: x.bool())
    ),
    'tensor of another rank': lambda folder: changed(
        folder, assign('text.norm_post.bias', lambda x: x[None])
    ),
    'tensor without elements': lambda folder: changed(folder, assign('image.pos_embed', lambda x: x[:0])),
    'missing tensor': lambda folder: changed(
        folder, lambda tensors: {n: t for n, t in tensors.items() if n != 'text.proj'}
    ),
    'further tensor': lambda folder: changed(folder, lambda tensors: tensors | {'extra': torch.ones(2)}),
    # Values
    'one NaN': lambda folder: changed(folder, assign('text.proj', spoil(math.nan))),
    'one infinite value': lambda folder: changed(folder, assign('image.pos_embed', spoil(-math.inf))),
    'one NaN, converted to another layout': converted,
    '`logit_scale` of 4.6052 (a scale of 100)': scale(4.6052),
    '`logit_scale` of 100 (the scale itself)': scale(100.0),
    '`logit_scale` of 14.285': scale(14.285),
    '`logit_scale` of 0.07 (a temperature)': scale(0.07),
    '`logit_scale` of -2.6593 (the logarithm of a temperature)': scale(-2.6593),
    # Precision
    '`dtype=torch.float16`, `bfloat16` or `float64`': lambda folder: [
        Classifier(changed(folder, lambda tensors: None, dtype=kind), Fixed())(
            Image.new('RGB', (9, 9)), ['a', 'b']
        )
        for kind in (torch.float16, torch.bfloat16, torch.float64)
    ],
    '`dtype=torch.int8`': lambda folder: changed(folder, lambda tensors: None, dtype=torch.int8),
    '`dtype=torch.float16` with a weight of 100,000': lambda folder: changed(
        folder, assign('text.norm_post.bias', lambda x: x + 1e5), dtype=torch.float16
    ),
    '`precision="auto"`': precision('auto'),
    '`precision="fp32"`': precision('fp32'),
    '`precision="bf16"` on a CPU without bf16 units': precision('bf16'),
    '`precision="fp16"`': precision('fp16'),
    '`precision="bfloat16"` or `torch.bfloat16`': precision('bfloat16'),
    '`precision="int8"` or another name': precision('int8'),
    '`precision="bf16"` with `dtype=torch.float16`': precision('bf16', torch.float16),
    '`clipdense.load(precision="bf16")`': lambda folder: changed(
        folder, lambda tensors: None, precision='bf16'
    ),
    '`device="gpu"`': lambda folder: load(folder / 'clip.pt', 'gpu'),
    '`device="cuda:99"`': lambda folder: load(folder / 'clip.pt', 'cuda:99'),
    '`device="meta"`': lambda folder: load(folder / 'clip.pt', 'meta'),
    'classification that overflows': overflow(lambda clip: Classifier(clip, Fixed())),
    'segmentation that overflows': overflow(
        lambda clip: Segmenter.from_pretrained(clip, embedder=Fixed(), device='cpu')
    ),
    # Class embeddings
    'array of class embeddings': lambda folder: npy(folder, lambda rows: None),
    'array with NaN': lambda folder: npy(folder, lambda rows: rows.__setitem__((0, 0), math.nan)),
    'array with a row of zeros': lambda folder: npy(folder, lambda rows: rows.__setitem__(1, 0)),
}


def test_row(row, check):
    check(row, READ)
