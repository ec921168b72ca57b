"""Files of class embeddings: what is written is read again, and what cannot be read is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from clipdense.clip.class_embeddings import StoredEmbeddings
from clipdense.clip.embedding_files import load_embeddings, save_embeddings
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

WORDS = Vocabulary(('background', 'cat', 'bed'), {'cat': ('kitten',)}, background='background')
EMBEDDINGS = ClassEmbeddings(torch.eye(4, 8), torch.tensor([index for _, index in WORDS.queries]), 3)


def test_save_and_load(tmp_path):
    save_embeddings(tmp_path / 'words.safetensors', WORDS, EMBEDDINGS, ('{}',))
    loaded, vocabulary = load_embeddings(tmp_path / 'words.safetensors')
    assert vocabulary == WORDS
    assert torch.equal(loaded.queries, EMBEDDINGS.queries)
    assert torch.equal(loaded.query_class, EMBEDDINGS.query_class)
    assert load_embeddings(tmp_path / 'words.safetensors', WORDS)[1] == WORDS


def test_npy(tmp_path):
    np.save(tmp_path / 'words.npy', np.array([[3, 4], [0, 2]], np.float16))
    embeddings, _ = load_embeddings(tmp_path / 'words.npy', Vocabulary(('cat', 'dog')))
    assert_close(embeddings.queries, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert embeddings.query_class.tolist() == [0, 1]


@pytest.mark.parametrize(
    ('name', 'make', 'vocabulary', 'message'),
    [
        ('a.safetensors', None, None, 'does not exist'),
        ('a.npy', None, Vocabulary(('cat',)), 'a.npy does not exist'),
        ('a.npy', lambda file: np.save(file, np.ones((1, 2))), None, 'give the vocabulary'),
        (
            'a.npy',
            lambda file: np.save(file, np.ones((3, 2))),
            Vocabulary(('cat',)),
            r'\(3, 2\), but the vocabulary needs 1 rows',
        ),
        ('a.npy', lambda file: np.save(file, np.ones(3)), Vocabulary(('cat',)), r'\(3,\)'),
        ('a.npy', lambda file: np.save(file, [[np.inf]]), Vocabulary(('cat',)), 'finite'),
        (
            'a.npy',
            lambda file: np.save(file, np.array([{}])),
            Vocabulary(('cat',)),
            'cannot be read as a numeric array',
        ),
        (
            'a.npy',
            lambda file: file.write_bytes(b'<html>'),
            Vocabulary(('cat',)),
            'cannot be read as a numeric array',
        ),
        (
            'a.safetensors',
            lambda file: save_file({'x': torch.ones(1)}, file),
            None,
            'not a file of class embeddings',
        ),
        ('a.safetensors', lambda file: file.write_bytes(b'<html>'), None, 'a.safetensors'),
    ],
)
def test_bad_files(tmp_path, name, make, vocabulary, message):
    if make:
        make(tmp_path / name)
    with pytest.raises(InputError, match=message):
        load_embeddings(tmp_path / name, vocabulary)


def test_file_of_other_words(tmp_path):
    file = tmp_path / 'words.safetensors'
    save_embeddings(file, WORDS, EMBEDDINGS)
    with pytest.raises(InputError, match='other class names'):
        load_embeddings(file, Vocabulary(('cat',)))


# Files in place of a text tower


@pytest.fixture
def rows(tmp_path):
    """A file with three names in eight dimensions."""
    vocabulary = Vocabulary(('red car', 'tree', 'sky'))
    queries = torch.eye(3, 8)
    path = tmp_path / 'rows.safetensors'
    save_embeddings(path, vocabulary, ClassEmbeddings(queries, torch.arange(3), 3))
    return path


def test_stored_rows_are_looked_up_by_name(rows):
    stored = StoredEmbeddings(rows, stand_ins={'auto': 'red car'})
    asked = Vocabulary(('Sky', 'auto'), {'Sky': ('tree',)})
    found = stored.embed(asked)
    assert found.queries.argmax(1).tolist() == [2, 1, 0]
    assert found.query_class.tolist() == [0, 0, 1]
    with pytest.raises(InputError, match=r"no row for 'tee': map it to another name .* Did you mean 'tree'"):
        stored.embed(Vocabulary(('tee',)))


@pytest.mark.parametrize(
    'form',
    ['names', 'coco name', 'categories', 'category list', 'text'],
)
def test_rows_of_an_array_are_named_by(tmp_path, form):
    from clipdense.vocab.class_names import CLASS_NAMES

    names = list(CLASS_NAMES['coco'])
    np.save(tmp_path / 'rows.npy', np.eye(80, dtype=np.float16) * 3)
    categories = [{'id': 100 - at, 'name': name} for at, name in reversed([*enumerate(reversed(names))])]
    if form == 'categories':
        (tmp_path / 'c.json').write_text(json.dumps({'categories': categories}))
    elif form == 'category list':
        (tmp_path / 'c.json').write_text(json.dumps(categories))
    elif form == 'text':
        (tmp_path / 'c.txt').write_text('\n'.join(names))
    given = {
        'names': names,
        'coco name': 'coco',
        'text': tmp_path / 'c.txt',
    }.get(form, tmp_path / 'c.json')
    found = StoredEmbeddings(tmp_path / 'rows.npy', given).embed(Vocabulary(('dog', 'person')))
    assert found.queries.argmax(1).tolist() == [names.index('dog'), names.index('person')]
    assert found.queries.norm(dim=1).tolist() == [1, 1]
