"""Training hook, ``clipdense test``, ``bench``, ``reproduce``: one number for one model and protocol."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.benchmarks.build import make_subject
from clipdense.benchmarks.evaluation import PresetSegmentation
from clipdense.benchmarks.grid import Grid
from clipdense.benchmarks.measure import Source
from clipdense.benchmarks.presets import find_preset
from clipdense.benchmarks.reproduce import gather, reproduce
from clipdense.clip.checkpoint import load, save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.engine.launch import test as run_test
from clipdense.methods.dense_clip.evaluation import ZeroShotSegmentation
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.utils.image_io import write_mask

TINY = ClipSize(
    VitSize(image_size=32, patch_size=8, width=32, layers=2, num_heads=2, mlp_width=64, embed_dim=16),
    TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16),
)
CONFIG = """
from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.engine.hooks import EvaluationHook, VocabularyHook
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.benchmarks.evaluation import PresetSegmentation
from clipdense.methods.dense_clip.evaluation import ZeroShotSegmentation
from clipdense.methods.dense_clip.segmenter import DenseCLIP

data = dict(type=VOCSegmentation, root={root!r}, split='val')
model = dict(type=DenseCLIP, clip='', method='sclip')
test_dataloader = dict(batch_size=2, num_workers=0, dataset=data)
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = dict(
    vocabulary=dict(type=VocabularyHook, templates='imagenet'),
    evaluation=dict(
        type=EvaluationHook,
        evaluations=dict(
            preset=dict(type=PresetSegmentation, method='sclip', dataset={root!r}, preset='native'),
            hook=dict(type=ZeroShotSegmentation, method="sclip", dataset=data, name="hook"),
        ),
    ),
)
"""


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('CLIPDENSE_OFFLINE', '1')


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    save(build_clip(TINY), tmp_path / 'tiny.safetensors')
    return str(tmp_path / 'tiny.safetensors')


@pytest.fixture
def folder(tmp_path):
    """Three small images of two sizes in PASCAL VOC format, with an unlabelled corner."""
    root, generator = tmp_path / 'own', np.random.default_rng(0)
    for part in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (root / part).mkdir(parents=True)
    for name, (height, width) in {'a': (30, 40), 'b': (30, 40), 'c': (44, 36)}.items():
        Image.effect_noise((width, height), 80).convert('RGB').save(root / f'JPEGImages/{name}.jpg')
        mask = generator.integers(0, 3, (height, width))
        mask[:5, :5] = 255
        write_mask(root / f'SegmentationClass/{name}.png', mask)
    (root / 'ImageSets/Segmentation/val.txt').write_text('a\nb\nc')
    (root / 'classes.txt').write_text('sky\nroad\ntree')
    return str(root)


def test_one_number(tmp_path, weights, folder):
    (tmp_path / 'own_test.py').write_text(CONFIG.format(root=folder))
    tested = run_test(tmp_path / 'own_test.py', weights, tmp_path / 'run')
    subject = make_subject(load(weights), weights)
    (cell,) = Grid(subject, ['sclip'], [folder], tmp_path / 'bench', preset='native').run()
    verdict = reproduce(gather('sclip', folder, weights, lambda name: subject, Source(), 'native'))
    stored = json.loads((tmp_path / 'bench/cells' / f'{cell["key"]}.json').read_text())
    found = {
        'clipdense test': tested['mIoU'],
        'training hook': tested['hook/miou'],
        'preset in a hook': tested['own/sclip/miou'],
        'bench': cell['scores']['mIoU'],
        'the file that bench wrote': stored['scores']['mIoU'],
        'reproduce': verdict.cell['scores']['mIoU'],
    }
    assert 0 < tested['mIoU'] < 1
    assert set(found.values()) == {tested['mIoU']}, found
    assert tested['pixel_accuracy'] == cell['scores']['pixel_accuracy'] == tested['own/sclip/pixel_accuracy']
    assert tested['mean_accuracy'] == cell['scores']['mean_accuracy']


def test_the_hook_while_training(tmp_path, weights, folder):
    """The hook's evaluation of a wrapped model in training mode, and that of the model alone."""
    clip = load(weights).train()
    model = DenseCLIP(clip, 'sclip')
    data = VOCSegmentation(folder, 'val')
    hook = EvaluationHook([ZeroShotSegmentation(data, 'sclip', name='hook')])
    preset = PresetSegmentation('sclip', folder, preset='native')
    assert hook.evaluate(model)['hook/miou'] == preset(clip)['own/sclip/miou']
    assert clip.training
    assert find_preset('native').slide() is None
