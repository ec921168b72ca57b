"""The tables below "Class names" of docs/input_contract.md."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.cli.app import app
from clipdense.cli.options import read_vocabulary
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.embedding_files import save_embeddings
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.clip.tokenizers import FolderTokenizer, TokenizerRules
from clipdense.inference.classifier import Classifier
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.templates import get_templates
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import write_weights

from ..vocab.hub_tokenizers import xlm_roberta
from .calls import all_of, each

SECTION = 'Class names'

TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
IMAGE = VitSize(image_size=16, patch_size=8, width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)


def _examples(image, mask=None):
    """A class given by an example in a vocabulary file."""

    def run(folder):
        (folder / 'text.png').write_text('no image')
        for name, size, value in (('image', 8, 9), ('small', 4, 1), ('zeros', 8, 0)):
            Image.fromarray(np.full((size, size), value, np.uint8)).save(folder / f'{name}.png')
        entry = {'name': 'logo', 'examples': [image if mask is None else [image, mask]]}
        (folder / 'v.json').write_text(json.dumps({'classes': ['cat', entry]}))
        clip = build_clip(ClipSize(IMAGE, TEXT))
        vocabulary = Vocabulary.from_file(folder / 'v.json')
        Classifier.from_pretrained(clip, cache=False, device='cpu').set_vocabulary(vocabulary)

    return run


def _text(text, *names, background=None):
    def run(_):
        found = Vocabulary.parse(text)
        assert found.class_names == names
        assert found.background == background

    return run


def _command(classes=None, vocab=None, class_list=None, names=()):
    def run(_):
        found = read_vocabulary(classes, None if vocab is None else Path(vocab), class_list)
        assert found.class_names == names

    return run


def _file(name, content, *names, synonyms=None):
    """Names read from a file; ``content``: text, bytes, or a value for JSON."""

    def run(folder):
        path = folder / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), 'utf-8', newline='')
        found = Vocabulary.from_file(path)
        assert found.class_names == names
        assert found.synonyms == (synonyms or {})

    return run


def _sparse(folder):
    with open(folder / 'big.txt', 'wb') as file:
        file.truncate(64_000_001)
    Vocabulary.from_file(folder / 'big.txt')


def _fifo(folder):
    os.mkfifo(folder / 'fifo.txt')
    Vocabulary.from_file(folder / 'fifo.txt')


def _clip():
    torch.manual_seed(0)
    return build_clip(ClipSize(IMAGE, TEXT)).eval()


def _one_item_list(_):
    Classifier(_clip(), PromptEnsemble(_clip(), 'name', cache=None)).set_vocabulary(['cat, dog'])


def _one_class(_):
    classifier = Classifier(_clip(), PromptEnsemble(_clip(), 'name', cache=None))
    assert classifier(Image.new('RGB', (16, 16)), ['cat']).probabilities == 1


def _embed(names, templates='name'):
    def run(_):
        PromptEnsemble(_clip(), templates, cache=None).embed(Vocabulary(names))

    return run


def _unknown_character(folder):
    rules = TokenizerRules('whitespace')
    clip = _clip()
    clip.tokenizer = FolderTokenizer(xlm_roberta(folder / 'xlm_roberta'), TEXT, rules)
    PromptEnsemble(clip, 'name', cache=None).embed(Vocabulary(['龘', 'cat']))


def _templates(templates, *prompts):
    def run(_):
        assert tuple(get_templates(templates).prompts('cat')) == prompts

    return run


def _braces(_):
    assert get_templates(['a {}', 'the {}']).prompts('{}') == ['a {}', 'the {}']


def _function(_):
    get_templates(lambda name: f'a {name}').prompts('cat')


def _given_twice(folder):
    for twice in (
        ['--vocab', 'a.txt', '--vocab=b.txt'],
        ['-w', 'a.pt', '--weights', 'b.pt'],
        ['--top', '1'] * 2,
    ):
        with pytest.raises(InputError, match='is given 2 times: give it once'):
            app(['classify', 'a.png', *twice])
    for command in (['detect', 'a.png'], ['embed']):
        with pytest.raises(InputError, match='--classes is given 2 times'):
            app([*command, '--classes', 'cat', '-c', 'dog'])
    app(['segment', 'a.png', '-c', 'cat', '--classes=dog', '-o', 'a=1', '-o', 'b=2'])


def _embeddings(folder):
    vocabulary = Vocabulary(['cat', 'dog'], {'dog': ['hound']})
    save_embeddings(
        folder / 'a.safetensors', vocabulary, ClassEmbeddings(torch.eye(3), torch.tensor([0, 1, 1]), 2)
    )
    assert Vocabulary.from_file(folder / 'a.safetensors') == vocabulary


def _weights(folder):
    write_weights(folder / 'a.safetensors', {'x': torch.zeros(2)})
    Vocabulary.from_file(folder / 'a.safetensors')


READ = {
    '`cat, traffic light`': _text('cat, traffic light', 'cat', 'traffic light'),
    '`salt\\, pepper, cat`': _text('salt\\, pepper, cat', 'salt, pepper', 'cat'),
    '`🔴, 🟦`': _text('🔴, 🟦', '🔴', '🟦'),
    '`St. Bernard`': _text('St. Bernard', 'St. Bernard'),
    '`_background_, cat`': all_of(
        *(
            _text(f'{name}, cat', name, 'cat', background=name)
            for name in ('_background_', 'Background', '__background__', 'bg')
        )
    ),
    '`cat; dog`': _text('cat; dog', 'cat; dog'),
    '`cat . dog .`': _text('cat . dog .', 'cat . dog .'),
    '`cat. dog.`': _text('cat. dog.', 'cat. dog.'),
    '`猫，犬、鳥`': _text('猫，犬、鳥', '猫，犬、鳥'),
    'bars between names': all_of(_text('cat | dog', 'cat | dog'), _text('cat|dog', 'cat|dog')),
    '`cat, dog；cow`': _text('cat, dog；cow', 'cat', 'dog；cow'),
    '`1. cat, 2. dog`': _text('1. cat, 2. dog', '1. cat', '2. dog'),
    "`['cat', 'dog']`": _text("['cat', 'dog']", "['cat'", "'dog']"),
    '`cat, ...`': _text('cat, ...', 'cat', '...'),
    'tabs or line breaks between names': each(_text('cat\ndog'), _text('cat\r\ndog'), _text('cat\tdog')),
    '`cat,, dog`': each(_text('cat,'), _text(','), _text('cat,, dog')),
    '`cat, CAT`': _text('cat, CAT'),
    '`traffic light, Traffic_Light`': each(
        _text('traffic light, traffic\u00a0light'),
        _text('traffic light, traffic  light.'),
        _text('traffic light, tra\u200bffic light'),
        _text('traffic light, Traffic_Light'),
    ),
    '`café` in NFC and NFD': _text('caf\u00e9, cafe\u0301'),
    '`cat` and `ｃａｔ`': _text('cat, ｃａｔ'),
    'no text': each(_text(' '), _text('')),
    'a name of joiners and other characters without a glyph': each(
        _text('cat, \u200d'), _text('\ufe0f, cat'), _text('cat, \u200c\u200b')
    ),
    "`-c 'cat' -c 'dog'`: an option that is given twice": _given_twice,
    '`--classes names.txt`': each(
        _command(__file__), _command('coco.json'), _command('a.CSV'), _command('names.txt')
    ),
    '`--classes voc21`': _command('voc21', names=('voc21',)),
    '`--class-list names.txt`': _command(class_list='names.txt'),
    '`--vocab voc21`': each(_command(vocab='cat, dog'), _command(vocab='voc21')),
    'one class a line, LF, CR LF or CR': all_of(
        _file('a.txt', 'cat\ndog\n', 'cat', 'dog'),
        _file('a.txt', '# animals\r\ncat\r\n\r\ndog\r\n', 'cat', 'dog'),
        _file('names', 'cat\rdog', 'cat', 'dog'),
    ),
    'UTF-8 with a byte order mark, UTF-16 with one': all_of(
        _file('a.txt', b'\xef\xbb\xbfcat\ndog', 'cat', 'dog'),
        _file('a.txt', 'cat\nK\u00e4se'.encode('utf-16'), 'cat', 'K\u00e4se'),
        _file('a.json', b'\xef\xbb\xbf["cat"]', 'cat'),
    ),
    '`name, synonym` lines': _file('a.txt', 'cat, kitten\ndog', 'cat', 'dog', synonyms={'cat': ('kitten',)}),
    'JSON list of names': _file('a.json', ['cat', 'salt, pepper'], 'cat', 'salt, pepper'),
    'JSON object `{"0": "cat"}`': all_of(
        _file(
            'a.json', {'10': 'k', **{str(n): f'c{n}' for n in range(10)}}, *(f'c{n}' for n in range(10)), 'k'
        ),
        _file('a.json', {'names': {'1': 'dog', '0': 'cat'}}, 'cat', 'dog'),
    ),
    'JSON object `{"cat": 0}`': _file('a.json', {'dog': 1, 'cat': 0}, 'cat', 'dog'),
    '`config.json` with `id2label`': _file(
        'config.json', {'model_type': 'vit', 'id2label': {'0': 'cat', '1': 'dog'}}, 'cat', 'dog'
    ),
    'COCO or LVIS annotations': _file(
        'a.json',
        {'images': [], 'categories': [{'id': 9, 'name': 'dog'}, {'id': 2, 'name': 'cat'}]},
        'cat',
        'dog',
    ),
    'JSON object with ids from 1': _file('a.json', {'1': 'cat', '2': 'dog'}, 'cat', 'dog'),
    'all names in one line': _file('a.txt', 'cat, dog, cow', 'cat', synonyms={'cat': ('dog', 'cow')}),
    'numbered lines': all_of(
        _file('a.txt', '0 cat\n1 dog', 'cat', 'dog'), _file('a.txt', '1) cat\n2) dog', 'cat', 'dog')
    ),
    '`0,cat` lines': all_of(
        _file('a.txt', '0,cat\n1,dog,hound', 'cat', 'dog', synonyms={'dog': ('hound',)}),
    ),
    'lines numbered otherwise': _file('a.txt', '3 cat\n4 dog', '3 cat', '4 dog'),
    'names that begin with numbers': _file('a.txt', '18 wheeler\n4 poster bed', '18 wheeler', '4 poster bed'),
    "ultralytics' `data.yaml`": all_of(
        _file('data.yaml', 'path: x\nnc: 2\nnames:\n  1: dog\n  0: no\n', 'no', 'dog'),
        _file('data.yml', 'train: a\nnames: [cat, dog]\n', 'cat', 'dog'),
    ),
    'a vocabulary in YAML': _file(
        'a.yaml',
        'classes: [cat, {name: dog, synonyms: [hound]}, [cow, calf]]\nbackground: [sky]',
        'background',
        'cat',
        'dog',
        'cow',
        synonyms={'background': ('sky',), 'dog': ('hound',), 'cow': ('calf',)},
    ),
    'a file of class embeddings': _embeddings,
    'a misspelled key of a vocabulary file': each(
        _file('a.yaml', 'classes: [cat]\nnegative: [dog]'),
        _file('a.json', {'classes': ['a'], 'template': 'b'}),
    ),
    'YAML with an alias': _file('a.yaml', 'classes: &x [cat, *x]'),
    'YAML with a key listed twice': _file('a.yaml', 'names: [cat]\nnames: [dog]'),
    'text that is not YAML': _file('a.yaml', 'names: [cat\n'),
    'a safetensors file of weights': _weights,
    'a threshold that is not 0 to 1': each(
        _file('a.yaml', 'classes: [{name: cat, threshold: 2}]'),
        _file('a.yaml', 'classes: [{name: cat, threshold: high}]'),
        lambda _: Vocabulary(['cat'], thresholds={'cat': True}),
    ),
    'a negative that is a class': each(
        lambda _: Vocabulary(['cat'], negatives=['Cat']),
        lambda _: Vocabulary(['cat'], {'cat': ['kitty']}, negatives=['kitty']),
    ),
    'examples of a class': _file('a.json', {'class_names': [], 'examples': {'logo': ['a.png']}}, 'logo'),
    'examples that are no list of paths, or none': each(
        _file('a.yaml', 'classes: [{name: logo, examples: a.png}]'),
        _file('a.json', {'classes': [{'name': 'logo', 'examples': [3]}]}),
        _file('a.yaml', 'classes: [{name: logo, examples: []}]'),
    ),
    'a class with examples and synonyms, or listed twice': each(
        _file('a.yaml', 'classes: [logo, {name: Logo, examples: [a.png]}]'),
        _file('a.yaml', 'classes: [{name: logo, synonyms: [sign], examples: [a.png]}]'),
    ),
    'an example image or mask that is missing or no image': each(
        _examples('none.png'), _examples('image.png', 'none.png'), _examples('text.png')
    ),
    'a mask of another size than its image': _examples('image.png', 'small.png'),
    'a mask whose pixels are all 0': _examples('image.png', 'zeros.png'),
    '`-c` with other separators, brackets, quotes or numbers': each(
        *(
            lambda _, text=text: read_vocabulary(text, None, None)
            for text in ('car; road', '[cat, dog]', '"cat", "dog"', '0 cat, 1 dog', 'car | road')
        )
    ),
    '`-c` with the name of a file': each(
        *(
            lambda _, text=text: read_vocabulary(text, None, None)
            for text in ('classes.txt', 'data.yaml', 'a.safetensors', ' names.json')
        )
    ),
    'a header line': _file('a.txt', 'name\ncat', 'name', 'cat'),
    '`cat # note`': _file('a.txt', 'cat # note\ndog', 'cat # note', 'dog'),
    'a name listed twice': _file('a.txt', 'cat\ndog\nCat'),
    'a line with an empty name': _file('a.txt', 'cat\ndog,,cow'),
    'a tab in a line': _file('a.txt', 'c\tcat\nd\tdog'),
    'a JSON key listed twice': _file('a.json', '{"0": "cat", "0": "dog"}'),
    'two JSON names of one id': each(
        _file('a.json', {'cat': 0, 'dog': 0}),
        _file('a.json', [{'id': 1, 'name': 'cat'}, {'id': 1, 'name': 'dog'}]),
        _file('a.json', {'0': 'cat', '00': 'dog'}),
    ),
    'deeply nested JSON': each(_file('a.json', '{"a":' * 100_000), _file('a.json', '[' * 100_000)),
    '`.csv` files': each(_file('a.csv', 'id,name\n0,cat'), _file('a.tsv', '0\tcat')),
    'text that is not UTF-8': _file('a.txt', b'cat\nK\xe4se\n'),
    'a folder, FIFO or device': each(
        Vocabulary.from_file, _fifo, lambda _: Vocabulary.from_file('/dev/zero')
    ),
    'an empty file': each(_file('a.json', '[]'), _file('a.txt', '# none\n'), _file('a.txt', b'')),
    'a file over 64 MB': _sparse,
    'a missing file': lambda folder: Vocabulary.from_file(folder / 'a.txt'),
    "`['cat', 'salt, pepper']`": lambda _: _same(['cat', 'salt, pepper']),
    "`['cat, dog']` to a predictor": _one_item_list,
    'one class for a `Classifier`': _one_class,
    'two names that are cut at the same place': _embed(['a ' * 90 + 'cat', 'a ' * 90 + 'dog']),
    'names with accents, digits or emoji': _embed(['café', 'Straße', '3 cars', '🔴', 'α-particle', '😀 cat']),
    '`кот, cat` for the tokenizer of an English CLIP': _embed(['кот', 'cat']),
    '`龘, cat` for a tokenizer without this character': _unknown_character,
    'a set or dict': each(lambda _: Vocabulary({'cat': 0}), lambda _: Vocabulary({'cat', 'dog'})),
    "`['cat', None]`": each(lambda _: Vocabulary(['cat', 3]), lambda _: Vocabulary(['cat', None])),
    "`['<\\|endoftext\\|>cat', 'dog']`": each(
        _embed(['cat<|startoftext|>']), _embed(['<|endoftext|>cat', 'dog'])
    ),
    '`imagenet`, `a photo of a {}.` or a list': all_of(
        _templates('a photo of a {}.', 'a photo of a cat.'), _templates(['{}', 'the {}'], 'cat', 'the cat')
    ),
    'a name with braces, `{}`': _braces,
    "`['a {}', 'a {}']`": _templates(['a {}', 'a {}'], 'a cat', 'a cat'),
    'a template without {} or with two': each(
        _templates(['a photo']), _templates(['']), _templates('{name}'), _templates(['{} and {}'])
    ),
    '`a {0} {}`, `a {name} {}`, `a {{}}`': each(
        _templates('a {0} {}'), _templates(['a {name} {}']), _templates('a {{}}')
    ),
    'an empty list': _templates([]),
    'a file name': each(_templates('my/templates'), _templates('templates.txt')),
    'a function that returns a string': _function,
}


def _same(names):
    assert Vocabulary(names).class_names == tuple(names)


def test_row(row, check):
    check(row, READ)
