"""Configs of ViLD from scenes on disk to scores, and whether the teacher helps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.config import load_config
from clipdense.data.detection.datasets import CocoDetection
from clipdense.data.detection.store import Regions, RegionStore, StoreFacts, images_digest
from clipdense.data.scenes import ImageSet, Scenes, write_coco
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.launch import test as measure
from clipdense.engine.launch import train
from clipdense.inference.detector import Detector
from clipdense.methods.vild.region_embeddings import embed_regions
from clipdense.structures import ClassEmbeddings

WIDTH = 96
HELD_OUT = ('yellow', 'star')  # words of novel classes


def write(folder, count):
    """Images of base and novel classes, all of them labelled: configs choose what they see."""
    both = ('base', 'novel')
    sets = [ImageSet('train', count, both, both), ImageSet('val', max(count // 8, 4), both, both)]
    write_coco(Scenes('standard', image_size=96), folder, sets)
    return folder


def make_config(folder, name, variant, **options):
    """A config of scenes on the images of ``folder``."""
    return load_config(
        f'vild/{name}',
        {
            'train_dataloader.dataset.annotations': str(folder / 'annotations/instances_train.json'),
            'train_dataloader.dataset.images': str(folder / 'images'),
            'proposal_dataset.annotations': str(folder / 'annotations/instances_train.json'),
            'proposal_dataset.images': str(folder / 'images'),
            'test_dataloader.dataset.annotations': str(folder / 'annotations/instances_val.json'),
            'test_dataloader.dataset.images': str(folder / 'images'),
            'model.roi_head.bbox_head.variant': variant,
            **options,
        },
    )


def untrained_clip(folder):
    path = folder / 'clip.safetensors'
    save(build_clip(ClipSize(VitSize(32, 16, 32, 1, 1, 32, WIDTH), TextSize(32, 1, 1, 32, WIDTH))), path)
    return str(path)


@pytest.mark.parametrize('variant', ['vild', 'ensemble'])
def test_the_whole_way(tmp_path, variant):
    """Proposer, teacher's embeddings, detector, scores; each by its config, two steps long."""
    folder = write(tmp_path / 'scenes', 8)
    common = {'model.clip': untrained_clip(tmp_path), 'train_cfg.max_steps': 2}
    common['train_dataloader.batch_size'] = 2
    train(make_config(folder, 'vild_scenes_rpn', 'text', **common), tmp_path / 'rpn')
    proposer = tmp_path / 'rpn/step_2.pth'
    regions = tmp_path / 'regions'
    cfg = make_config(
        folder,
        'vild_scenes',
        variant,
        **{**common, 'model.start': str(proposer), 'train_dataloader.dataset.regions': str(regions)},
    )
    embed_regions(cfg, proposer, regions, regions=5)
    runner = train(cfg, tmp_path / variant)
    before = torch.load(proposer, weights_only=True)['state_dict']
    for name, tensor in runner.model.state_dict().items():
        if name.startswith(('backbone.', 'neck.', 'rpn_head.')):
            assert torch.equal(tensor, before[name]), name
    metrics = measure(cfg, tmp_path / variant / 'step_2.pth', tmp_path / 'test')
    assert measure(cfg, tmp_path / variant / 'vild.safetensors', tmp_path / 'again') == metrics
    alone = Detector.from_pretrained(tmp_path / variant / 'step_2.pth', device='cpu').model.model
    assert all(torch.equal(x, alone.state_dict()[name]) for name, x in runner.model.state_dict().items())
    assert train(cfg, tmp_path / variant, resume=True, options={'train_cfg.max_steps': 3}).iter == 3
    assert {'all/AP50', 'base/AP50', 'novel/AP50'} <= metrics.keys()
    assert all(-1 <= value <= 1 for value in metrics.values())


class WordVectors:
    """An embedder without a network: a class is the sum of its words' random directions."""

    def embed(self, vocabulary):
        return ClassEmbeddings(
            class_vectors(vocabulary.class_names), torch.arange(len(vocabulary)), len(vocabulary)
        )


def class_vectors(names):
    words = sorted({word for name in Scenes('standard').class_names for word in name.split()})
    table = torch.randn(len(words), WIDTH, generator=torch.Generator().manual_seed(0))
    rows = [table[[words.index(word) for word in name.split()]].sum(dim=0) for name in names]
    return normalize(torch.stack(rows), dim=-1)


def perfect_store(folder, path):
    """The teacher sees every object, novel ones too, and names it rightly."""
    dataset = CocoDetection(folder / 'annotations/instances_train.json', folder / 'images')
    vectors = class_vectors(dataset.vocabulary.class_names).numpy().astype(np.float16)
    images = [(one.image_id, *one.size[::-1]) for one in dataset.images]
    facts = StoreFacts('', '', (1.0,), images_digest(images), 4, WIDTH)
    store = RegionStore.create(path, facts, [one.image_id for one in dataset.images])
    found = {}
    for one in dataset.images:
        boxes = np.array([item['bbox'] for item in one.objects], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [item['label'] for item in one.objects]
        found[one.image_id] = Regions(boxes, vectors[labels])
    store.write(found)


@pytest.mark.slow
def test_the_teacher_teaches_words_that_no_box_names(tmp_path):
    """Trained on base classes without two words; classes with these words are found with a teacher only."""
    folder = write(tmp_path / 'scenes', 1200)
    perfect_store(folder, tmp_path / 'regions')
    categories = json.loads((folder / 'annotations/instances_train.json').read_text())['categories']
    names = [one['name'] for one in categories if one['split'] in ('base', 'novel')]
    seen = [name for name in names if not set(name.split()) & set(HELD_OUT)]
    scores = {}
    for variant in ('text', 'vild'):
        options = {'model.clip': untrained_clip(tmp_path), 'train_cfg.max_steps': 400}
        cfg = make_config(folder, 'vild_scenes_rpn', variant, **options)
        cfg.train_dataloader.dataset.update(classes=seen, regions=str(tmp_path / 'regions'))
        cfg.test_dataloader.dataset.update(classes=names, novel=[name for name in names if name not in seen])
        cfg.custom_hooks = dict(vocabulary=dict(type=VocabularyHook, embedder=dict(type=WordVectors)))
        train(cfg, tmp_path / variant)
        scores[variant] = measure(cfg, tmp_path / variant / 'step_400.pth', tmp_path / 'test')
    assert scores['text']['base/AP50'] > 0.2
    assert scores['vild']['novel/AP50'] > scores['text']['novel/AP50'] + 0.05
