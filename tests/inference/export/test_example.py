"""``examples/onnx_runtime.py`` runs where torch and clipdense cannot be imported, and segments alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.clip.embedding_files import save_embeddings
from clipdense.inference.segmenter import Segmenter
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary

EXAMPLE = Path(__file__).parents[3] / 'examples' / 'onnx_runtime.py'
BLOCKED = """
import runpy, sys
for name in ('torch', 'clipdense', 'torchvision', 'safetensors', 'mmengine', 'cv2', 'scipy'):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


def run_example(*arguments):
    return subprocess.run(
        [sys.executable, '-c', BLOCKED, EXAMPLE, *arguments], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def vocabulary():
    return Vocabulary(('cat', 'dog', 'sky'), synonyms={'cat': ('kitten',)})


@pytest.fixture
def embeddings(vocabulary):
    queries = torch.nn.functional.normalize(torch.randn(4, 16), dim=-1)
    return ClassEmbeddings(queries, torch.tensor([index for _, index in vocabulary.queries]), 3)


@pytest.mark.parametrize('size', [(50, 70), (90, 40)], ids=['wide', 'tall'])
def test_the_same_mask_as_clipdense(clip, exported, vocabulary, embeddings, size, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    save_embeddings(tmp_path / 'classes.safetensors', vocabulary, embeddings)
    done = run_example(
        exported.path, tmp_path / 'classes.safetensors', tmp_path / 'photo.png', tmp_path / 'mask.png'
    )
    assert done.returncode == 0, done.stderr
    found = np.asarray(Image.open(tmp_path / 'mask.png'))
    segmenter = Segmenter.from_pretrained(
        clip, method='maskclip', embedder=tmp_path / 'classes.safetensors', device='cpu'
    )
    expected = np.asarray(segmenter(Image.fromarray(pixels), vocabulary).mask)
    assert found.shape == expected.shape
    assert (found == expected).mean() > 0.999
    assert set(done.stdout.replace(':', ' ').split()) & {'cat', 'dog', 'sky'}


def test_class_embeddings_in_an_npz_file(exported, tmp_path):
    np.savez(tmp_path / 'classes.npz', queries=np.eye(2, 16), class_names=np.array(['cat', 'dog']))
    Image.new('RGB', (40, 40)).save(tmp_path / 'photo.png')
    done = run_example(exported.path, tmp_path / 'classes.npz', tmp_path / 'photo.png', tmp_path / 'mask.png')
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(tmp_path / 'mask.png')).max() <= 1
