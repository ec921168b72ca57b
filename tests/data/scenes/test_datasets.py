"""Scenes as datasets: what each item holds, and that workers and memory change nothing."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from clipdense.data.scenes import SceneCaptions, SceneLabels, Scenes, SceneSegmentation
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError


def words(texts):
    """A tokenizer that anyone can read back."""
    return np.array([[len(text), *text.encode()[:6]] for text in texts])


def test_captions():
    dataset = SceneCaptions(10, tokenizer=words)
    item = dataset[3]
    expected = Scenes().draw(3, stream='train')
    assert item['images'].dtype == torch.uint8
    assert torch.equal(item['images'], torch.from_numpy(expected.image).permute(2, 0, 1))
    assert item['token_ids'].dtype == torch.int64
    assert item['token_ids'].tolist() == words([dataset.caption(3)])[0].tolist()
    assert dataset.captions_of(3) == [expected.caption]
    assert len(dataset) == 10


def test_the_default_tokenizer_is_clips():
    item = SceneCaptions(1)[0]
    assert item['token_ids'].shape == (77,)
    assert item['token_ids'][0] == 49406


def test_training_captions_never_name_an_unseen_class():
    dataset = SceneCaptions(300, tokenizer=words)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        text = '\n'.join(dataset.caption(index) for index in range(300))
        assert not any(name in text for name in dataset.scenes.unseen)
        assert any(name in text for name in dataset.scenes.novel)


@pytest.mark.parametrize('vary', [True, False])
def test_captions_of_an_epoch(vary):
    dataset = SceneCaptions(20, tokenizer=words, vary_captions=vary)
    first = [dataset.caption(index) for index in range(20)]
    dataset.set_epoch(1)
    second = [dataset.caption(index) for index in range(20)]
    dataset.set_epoch(0)
    assert [dataset.caption(index) for index in range(20)] == first
    assert (first != second) == vary


def test_running_workers_follow_the_epoch():
    dataset = SceneCaptions(8, tokenizer=words)
    loader = DataLoader(dataset, 8, num_workers=1, persistent_workers=True)
    for epoch in range(2):
        dataset.set_epoch(epoch)
        (batch,) = loader
        expected = words([dataset.caption(index) for index in range(8)])
        assert batch['token_ids'].tolist() == expected.tolist()


@pytest.mark.parametrize('keep', [True, False])
@pytest.mark.parametrize('workers', [0, 2])
def test_workers_and_memory_change_nothing(keep, workers):
    dataset = SceneCaptions(12, tokenizer=words, keep=keep)
    for _ in range(2):
        batches = list(DataLoader(dataset, 5, num_workers=workers))
        images = torch.cat([batch['images'] for batch in batches])
        expected = np.stack([Scenes().draw(index).image for index in range(12)])
        assert torch.equal(images, torch.from_numpy(expected).permute(0, 3, 1, 2))


def test_images_are_drawn_once(monkeypatch):
    dataset = SceneCaptions(4, tokenizer=words)
    drawn = []
    draw = dataset.scenes.draw
    monkeypatch.setattr(
        dataset.scenes, 'draw', lambda index, *a, **k: drawn.append(index) or draw(index, *a, **k)
    )
    for index in (0, 1, 0, 1, 3):
        dataset[index]
    assert drawn == [0, 1, 3]


def test_items_may_be_written_to():
    dataset = SceneCaptions(1, tokenizer=words)
    before = dataset[0]['images'].clone()
    dataset[0]['images'].zero_()
    assert torch.equal(dataset[0]['images'], before)


@pytest.mark.parametrize('dataset', [SceneCaptions(3), SceneLabels('base', 3), SceneSegmentation('base', 3)])
def test_pickling(dataset):
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[2]['images'], dataset[2]['images'])


@pytest.mark.parametrize('all_names', [False, True])
@pytest.mark.parametrize('split', ['base', 'novel', 'unseen'])
def test_labels(split, all_names):
    dataset = SceneLabels(split, 64, all_names=all_names)
    scenes = dataset.scenes
    assert dataset.class_names == (scenes.class_names if all_names else scenes.splits[split])
    named = [dataset.class_names[dataset[index]['labels']] for index in range(64)]
    assert {named.count(name) for name in scenes.splits[split]} == {64 // len(scenes.splits[split])}
    for index in (0, 17):
        scene = scenes.draw(index, [named[index]], 1, stream=f'val/{split}/labels')
        assert torch.equal(dataset[index]['images'], torch.from_numpy(scene.image).permute(2, 0, 1))


@pytest.mark.parametrize(
    ('all_names', 'unlabeled'), [(False, ()), (True, ()), (False, ('novel',)), (True, ('novel', 'unseen'))]
)
def test_segmentation(all_names, unlabeled):
    dataset = SceneSegmentation('base', 30, all_names=all_names, unlabeled=unlabeled)
    scenes, names = dataset.scenes, dataset.vocabulary.class_names
    assert names == ('background', *(scenes.class_names if all_names else scenes.base))
    assert dataset.metainfo == {'vocabulary': dataset.vocabulary, 'classes': names}
    ignored = False
    for index in range(30):
        item = dataset[index]
        scene = scenes.draw(index, ('base', *unlabeled), stream='val/base/masks')
        assert item['samples'].mask.dtype == torch.int64
        for value in np.unique(scene.mask).tolist():
            labels = item['samples'].mask.numpy()[scene.mask == value]
            name = scenes.class_names[value - 1] if value else 'background'
            expected = names.index(name) if value == 0 or name in scenes.base else 255
            assert (labels == expected).all()
            ignored |= expected == 255
    assert ignored == bool(unlabeled)


@pytest.mark.parametrize('index', [-1, 3])
def test_indices_out_of_range(index):
    with pytest.raises(IndexError, match=f'image {index} of 3'):
        SceneCaptions(3, tokenizer=words)[index]


def test_unknown_split():
    for dataset in (SceneLabels, SceneSegmentation):
        with pytest.raises(InputError, match="Did you mean 'novel'"):
            dataset('nvel', 3)


@pytest.mark.parametrize('name', ['SceneCaptions', 'SceneLabels', 'SceneSegmentation'])
def test_configs_may_name_them(name):
    options = {'num_images': 2, **({} if name == 'SceneCaptions' else {'split': 'base'})}
    assert len(DATASETS.build({'type': name, **options})) == 2
