"""The tables below "Class embeddings" of docs/input_contract.md."""

from __future__ import annotations

import numpy as np
import torch

from clipdense.clip.class_embeddings import StoredEmbeddings
from clipdense.clip.embedding_files import load_embeddings, save_embeddings
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.classifier import Classifier
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary

from .calls import each

SECTION = 'Class embeddings'
TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
IMAGE = VitSize(image_size=16, patch_size=8, width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)


def _clip():
    torch.manual_seed(0)
    return build_clip(ClipSize(IMAGE, TEXT)).eval()


def _stored(folder, *asked):
    vocabulary = Vocabulary(('hot dog', 'tree', 'Caf\u00e9'))
    save_embeddings(
        folder / 'a.safetensors', vocabulary, ClassEmbeddings(torch.eye(3, 8), torch.arange(3), 3)
    )
    return StoredEmbeddings(folder / 'a.safetensors').embed(Vocabulary(asked)).queries.argmax(dim=1).tolist()


def _spelled_differently(folder):
    assert _stored(folder, 'Cafe\u0301', 'Hot_Dog', ' TREE.') == [2, 0, 1]


def _extra_rows(folder):
    assert _stored(folder, 'tree') == [1]


def _other_space(folder):
    vocabulary = Vocabulary(('cat', 'dog'))
    save_embeddings(folder / 'a.safetensors', vocabulary, ClassEmbeddings(torch.eye(2), torch.arange(2), 2))
    Classifier.from_pretrained(_clip(), embedder=folder / 'a.safetensors').set_vocabulary(vocabulary)


def _with_templates(folder):
    _stored(folder, 'tree')
    Classifier.from_pretrained(_clip(), embedder=folder / 'a.safetensors', templates='name')


def _array(rows, names=('cat', 'dog')):
    def run(folder):
        np.save(folder / 'a.npy', np.array(rows))
        load_embeddings(folder / 'a.npy', Vocabulary(names))

    return run


def _other_order(folder):
    _stored(folder, 'tree')
    load_embeddings(folder / 'a.safetensors', Vocabulary(('tree', 'hot dog', 'cafe\u0301')))


READ = {
    'names in another spelling, such as `Hot_Dog` for `hot dog`': _spelled_differently,
    'rows of other classes': _extra_rows,
    'a name without a row': lambda folder: _stored(folder, 'zebra'),
    'more or fewer rows than names': each(_array([[1.0, 0]]), _array([1.0, 2]), _array(np.eye(3))),
    'a row of zeros': _array([[1.0, 0], [0, 0]]),
    'a file for a model of another joint space': _other_space,
    'a file together with templates': _with_templates,
    'values that are not finite': each(_array([[1, np.inf], [1, 0]]), _array([[np.nan, 1], [1, 0]])),
    'text instead of numbers': each(_array([[1j], [2]]), _array([['1'], ['2']])),
    "class names in another order than the file's": _other_order,
}


def test_row(row, check):
    check(row, READ)
