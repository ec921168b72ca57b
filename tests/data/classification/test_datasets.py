"""Labeled images in folders and in torchvision's formats."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from clipdense.data.classification.datasets import LabeledFolder
from clipdense.data.classification.torchvision_sets import TorchvisionDataset
from clipdense.data.transforms import CenterCrop, TrainCrop
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError


@pytest.fixture
def folder(tmp_path):
    """Two classes, cats in red and hot dogs in green, and things that are neither class nor image."""
    files = {
        'cat/1.png': 'red',
        'cat/below/2.JPG': 'red',
        'hot_dog/1.png': 'green',
        'hot_dog/3.webp': 'green',
    }
    for name, color in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (10, 8), color).save(tmp_path / name)
    (tmp_path / '.hidden').mkdir()
    for name in ('cat/notes.txt', 'cat/.1.png', '.hidden/1.png', 'stray.png'):
        (tmp_path / name).write_bytes(b'nothing')
    return tmp_path


class TestLabeledFolder:
    def test_items(self, folder):
        dataset = DATASETS.build({'type': 'LabeledFolder', 'root': folder, 'transform': CenterCrop(4)})
        assert dataset.class_names == ('cat', 'hot dog')
        items = [dataset[index] for index in range(len(dataset))]
        assert [item['labels'] for item in items] == [0, 0, 1, 1]
        assert all((item['images'].shape, item['images'].dtype) == ((3, 4, 4), torch.uint8) for item in items)
        assert [int(item['images'][0, 2, 2]) > 240 for item in items] == [True, True, False, False]

    def test_without_a_transform_images_keep_their_size(self, folder):
        assert LabeledFolder(folder)[0]['images'].shape == (3, 8, 10)

    @pytest.mark.parametrize(
        ('given', 'names'),
        [
            (['dog', 'frog'], ('dog', 'frog')),
            ({'hot_dog': 'sausage', 'cat': 'tom', 'other': 'x'}, ('tom', 'sausage')),
            ('tench, Tinca tinca\n\nsausage \n', ('tench, Tinca tinca', 'sausage')),
            ('hot_dog\tsausage in bread\ncat\ttom\n', ('tom', 'sausage in bread')),
            ('\ufeffkatze\nwürstchen', ('katze', 'würstchen')),
            ('big\u2028cat\r\nsausage\r\n', ('big\u2028cat', 'sausage')),
            (['cat', 'sausage'], ('cat', 'sausage')),
        ],
        ids=[
            'list',
            'dict',
            'file in order',
            'file by folder',
            'file with a mark',
            'line separator',
            'own name',
        ],
    )
    def test_names(self, folder, given, names):
        if isinstance(given, str):
            (folder / 'classes.txt').write_text(given, encoding='utf-8')
            given = None
        assert LabeledFolder(folder, class_names=given).class_names == names

    @pytest.mark.parametrize(
        ('given', 'message'),
        [
            (['one'], '1 name, .* has 2 subfolders'),
            ({'cat': 'x', 'hot_dgo': 'y'}, "no name for the folder 'hot_dog'.*Did you mean 'hot_dgo'"),
            (['same', 'same'], 'the same class name'),
            ('one\ntwo\nthree\n', r'classes\.txt has 3 names'),
            (['hot dog', 'cat'], "another order than the dataset: label 0 is 'cat', which is number 1"),
            ('Hot_Dog\ntom\n', r"classes\.txt has another order .*label 1 is 'hot dog', which is number 0"),
            ('cat\ttom\nhot_dog\n', r"classes\.txt, line 2: 'hot_dog' must be FOLDER, a tab"),
            ('cat\ttom\nhot_dog\tx\ncat\ty\n', "two names for the folder 'cat': 'tom' and 'y'"),
            ({'cat': 'tom', 'hot_dog': None}, 'class name of class_names must be a string, got NoneType'),
            (['tom', ' '], 'class name of class_names is blank'),
            (['caf\u00e9', 'CAFE\u0301'], 'the same class name'),
        ],
    )
    def test_refuses_names(self, folder, given, message):
        if isinstance(given, str):
            (folder / 'classes.txt').write_text(given)
            given = None
        with pytest.raises(InputError, match=message):
            LabeledFolder(folder, class_names=given)

    @pytest.mark.parametrize('form', ['NFC', 'NFD'])
    def test_folders_are_named_in_any_unicode_form(self, folder, form):
        os.rename(folder / 'cat', folder / unicodedata.normalize(form, 'café'))
        for other in ('NFC', 'NFD'):
            names = {unicodedata.normalize(other, 'café'): 'coffee', 'hot_dog': 'sausage'}
            assert LabeledFolder(folder, class_names=names).class_names == ('coffee', 'sausage')

    def test_classes_without_images_are_named(self, folder):
        (folder / 'bird').mkdir()
        said = f'1 of 3 subfolders of {folder} have no images, and stay classes: bird'
        with pytest.warns(UserWarning, match=re.escape(said)):
            dataset = LabeledFolder(folder)
        assert dataset.class_names == ('bird', 'cat', 'hot dog')
        assert {label for _, label in dataset.images} == {1, 2}

    def test_a_folder_around_the_class_folders_is_named(self, tmp_path):
        outer = tmp_path / 'outer'
        for name in ('cat', 'dog'):
            (outer / 'pets' / name).mkdir(parents=True)
            Image.new('RGB', (8, 8)).save(outer / 'pets' / name / 'a.png')
        said = "a single class, 'pets', with its images in 2 subfolders: if these are the classes, pass "
        with pytest.warns(UserWarning, match=re.escape(f'{outer} has {said}{outer / "pets"}')):
            assert LabeledFolder(outer).class_names == ('pets',)

    @pytest.mark.parametrize(
        'said',
        [
            r"1 of 4 images of .*, such as cat/below/2.JPG: .* class of the outer folder \('cat'\)",
            '1 image directly in .* left out, such as stray.png: each class needs a subfolder',
        ],
    )
    def test_images_in_other_places_are_named(self, folder, said):
        with pytest.warns(UserWarning, match=said):
            assert len(LabeledFolder(folder)) == 4

    @pytest.mark.parametrize('make', ['nothing', 'file', 'empty', 'empty classes'])
    def test_refuses_folders(self, tmp_path, make):
        root = tmp_path / 'root'
        if make == 'file':
            root.write_text('x')
        elif make != 'nothing':
            root.mkdir()
        if make == 'empty classes':
            (root / 'cat').mkdir()
        with pytest.raises(InputError, match=r'folder of images for each class|no images in'):
            LabeledFolder(root)

    def test_unreadable_images_have_no_label(self, folder):
        (folder / 'cat' / '1.png').write_bytes(b'<html>')
        dataset = LabeledFolder(folder, CenterCrop(4))
        items = [dataset[index] for index in range(4)]
        assert [item['labels'] for item in items] == [-1, 0, 1, 1]
        assert items[0]['images'].shape == (3, 4, 4)
        assert (dataset.faults.seen, dataset.faults.lost) == (4, 1)

    def test_too_many_unreadable_images(self, folder):
        for index in range(20):
            (folder / 'cat' / f'{index}.png').write_bytes(b'')
        dataset = LabeledFolder(folder)
        with pytest.raises(InputError, match='11 of 11 images could not be used'):
            [dataset[index] for index in range(20)]

    def test_random_crops_depend_on_epoch_and_index(self, folder):
        noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
        for name in ('cat/1.png', 'hot_dog/1.png'):
            Image.fromarray(noise).save(folder / name)
        dataset = LabeledFolder(folder, TrainCrop(4, scale=(0.2, 1)))
        first = [dataset[0]['images'], dataset[2]['images']]
        dataset.set_epoch(1)
        later = dataset[0]['images']
        dataset.set_epoch(0)
        assert torch.equal(dataset[0]['images'], first[0])
        assert not torch.equal(first[0], first[1])
        assert not torch.equal(first[0], later)


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """CIFAR-100 in its official format with 3 classes; torchvision is told the digests of these files."""
    folder = tmp_path / 'cifar-100-python'
    folder.mkdir()
    labels = [2, 0, 1, 2]
    pixels = np.zeros((4, 3, 32, 32), np.uint8)
    pixels[np.arange(4), labels] = 250  # class 0 is red, 1 green, 2 blue
    content = {
        'train': {'data': pixels[:2].reshape(2, -1), 'fine_labels': labels[:2]},
        'test': {'data': pixels.reshape(4, -1), 'fine_labels': labels},
        'meta': {'fine_label_names': ['aquarium_fish', 'apple', 'bee']},
    }
    digests = {}
    for name, data in content.items():
        (folder / name).write_bytes(pickle.dumps(data))
        digests[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR100, 'train_list', [['train', digests['train']]])
    monkeypatch.setattr(datasets.CIFAR100, 'test_list', [['test', digests['test']]])
    monkeypatch.setattr(
        datasets.CIFAR100, 'meta', {'filename': 'meta', 'key': 'fine_label_names', 'md5': digests['meta']}
    )
    return tmp_path


class TestTorchvisionDataset:
    @pytest.mark.parametrize(('train', 'labels'), [(False, [2, 0, 1, 2]), (True, [2, 0])])
    def test_cifar100(self, cifar100, train, labels):
        config = {'type': 'TorchvisionDataset', 'name': 'CIFAR100', 'root': cifar100, 'train': train}
        dataset = DATASETS.build({**config, 'transform': {'type': 'CenterCrop', 'size': 8}})
        assert dataset.class_names == ('aquarium fish', 'apple', 'bee')
        items = [dataset[index] for index in range(len(dataset))]
        assert [item['labels'] for item in items] == labels
        assert [int(item['images'][:, 4, 4].argmax()) for item in items] == labels
        assert items[0]['images'].shape == (3, 8, 8)

    def test_names_may_be_given(self, cifar100):
        dataset = TorchvisionDataset('CIFAR100', cifar100, class_names=['aquarium_fish', 'apple', 'bee'])
        assert dataset.class_names == (
            'aquarium_fish',
            'apple',
            'bee',
        )  # as the official example prompts them
        with pytest.raises(InputError, match='3 classes, but class_names has 2'):
            TorchvisionDataset('CIFAR100', cifar100, class_names=['a', 'b'])

    @pytest.mark.parametrize(
        ('damage', 'message'),
        [
            (lambda file: file.unlink(), r'CIFAR100 is incomplete: test missing in .*cifar-100-python'),
            (lambda file: file.write_bytes(b'x'), 'one of train, test, meta in .* is damaged'),
        ],
        ids=['missing', 'damaged'],
    )
    def test_refuses_incomplete_files(self, cifar100, damage, message):
        damage(cifar100 / 'cifar-100-python' / 'test')
        with pytest.raises(InputError, match=message + '.*nothing is downloaded'):
            TorchvisionDataset('CIFAR100', cifar100)

    @pytest.mark.parametrize('name', ['MNIST', 'Food101', 'ImageNet', 'OxfordIIITPet', 'EuroSAT', 'STL10'])
    def test_refuses_an_empty_folder(self, tmp_path, name):
        with pytest.raises(InputError, match=f'{name} is incomplete: .*nothing is downloaded'):
            TorchvisionDataset(name, tmp_path)

    @pytest.mark.parametrize(
        ('name', 'options', 'message'),
        [
            ('CIFAR1000', {}, "Did you mean 'CIFAR100'"),
            ('CIFAR100', {'version': 2}, 'invalid options for CIFAR100'),
            ('Food101', {'split': 'tset'}, "Food101: .*'tset'"),
        ],
    )
    def test_refuses(self, tmp_path, name, options, message):
        with pytest.raises(InputError, match=message):
            TorchvisionDataset(name, tmp_path, options=options)

    @pytest.mark.parametrize(('train', 'expected'), [(False, 'val'), (True, 'train')])
    def test_the_part_for_tests_may_have_another_name(self, tmp_path, monkeypatch, train, expected):
        class Own:
            classes = ('a_b', 'c')

            def __init__(self, root, split='train'):
                if split not in ('train', 'val'):
                    raise ValueError(f'no {split}')
                self.split = split

        monkeypatch.setattr(datasets, 'Own', Own, raising=False)
        monkeypatch.setattr(datasets, '__all__', ('Own',))
        dataset = TorchvisionDataset('Own', tmp_path, train)
        assert dataset.dataset.split == expected
        assert dataset.class_names == ('a b', 'c')

    def test_names_that_torchvision_does_not_know(self, tmp_path):
        options = {'size': 2, 'image_size': (3, 8, 8), 'num_classes': 2}

        def fake(root, size, image_size, num_classes):
            return datasets.FakeData(size, image_size, num_classes)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(datasets, 'FakeData2', fake, raising=False)
            patch.setattr(datasets, '__all__', ('FakeData2',))
            with pytest.raises(InputError, match='pass class_names'):
                TorchvisionDataset('FakeData2', tmp_path, options=options)
            dataset = TorchvisionDataset('FakeData2', tmp_path, class_names=['a', 'b'], options=options)
        assert dataset[0]['images'].shape == (3, 8, 8)

    @pytest.mark.parametrize(
        ('label', 'expected'),
        [(1, 1), (torch.tensor(1), 1), (np.int64(1), 1), ((0, 1), -1), (torch.tensor([0, 1]), -1), ('a', -1)],
    )
    def test_labels_are_single_numbers(self, tmp_path, monkeypatch, label, expected):
        class Own:
            classes = ('a', 'b')

            def __init__(self, root):
                pass

            def __getitem__(self, index):
                return Image.new('L', (5, 4)), label

        monkeypatch.setattr(datasets, 'Own', Own, raising=False)
        monkeypatch.setattr(datasets, '__all__', ('Own',))
        found = TorchvisionDataset('Own', tmp_path)[0]
        assert (type(found['labels']), found['labels']) == (int, expected)
        assert found['images'].shape[0] == 3
