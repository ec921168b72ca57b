"""Training, validation and test images of any labeled data."""

from __future__ import annotations

import re
from itertools import chain

import pytest
from PIL import Image
from torchvision import datasets

from clipdense.data.classification.datasets import LabeledFolder
from clipdense.data.classification.splits import ImageSubset, has_parts, open_part, stratified
from clipdense.utils.errors import InputError

PARTS = ('train', 'val', 'test')
ONE, TWO = {'ant': 1}, {'ant': 2, 'bee': 2}


def within(part, counts):
    return {f'{part}/{name}': count for name, count in counts.items()}


class TestStratified:
    @pytest.mark.parametrize(
        ('count', 'sizes'),
        [
            (1, (1, 0, 0)),
            (0, (0, 0, 0)),
            (2, (1, 0, 1)),
            (4, (2, 1, 1)),
            (3, (1, 1, 1)),
            (5, (2, 1, 2)),
            (10, (5, 2, 3)),
        ],
    )
    def test_sizes_of_a_class(self, count, sizes):
        keys = list(map(str, range(count)))
        parts = stratified([0] * count, keys, {'train': 0.5, 'val': 0.2, 'test': 0.3}, 0)
        assert tuple(map(len, parts.values())) == sizes
        assert sorted(chain(*parts.values())) == list(range(count))

    def test_unreadable_images_are_in_no_part(self):
        assert stratified([-1, 0, 0], ['a', 'b', 'c'], {'train': 0.5, 'val': 0.5}, 0).keys() == {
            'train',
            'val',
        }
        assert (
            sum(map(len, stratified([-1, 0, 0], ['a', 'b', 'c'], {'train': 0.5, 'val': 0.5}, 0).values()))
            == 2
        )


_NO_BEE = '1 of 2 classes of .* have no images, and stay classes: bee'
FOLDERS = {  # images of train, val and test; what is said of them
    'three parts': (within('train', TWO) | within('val', ONE) | within('test', TWO), (4, 1, 4), _NO_BEE),
    'other names of parts': (
        within('Training', TWO) | within('valid', ONE) | within('testing', ONE),
        (4, 1, 1),
        _NO_BEE,
    ),
    'no test': (
        within('train', {'ant': 10}) | within('val', ONE),
        (8, 2, 1),
        'no test folder: .*val is used as test images',
    ),
    'no validation': (within('train', {'ant': 10}) | within('test', ONE), (8, 2, 1), '80 % train, 20 % val'),
    'classes only': ({'ant': 10, 'bee': 10}, (10, 4, 6), '50 % train, 20 % val, 30 % test'),
    'a class called train': ({'train': 10, 'bus': 10}, (10, 4, 6), '50 % train'),
    'training images only': (within('train', {'ant': 10}), (5, 2, 3), '50 % train'),
    'a folder of something else': (
        within('train', ONE) | within('val', ONE) | within('test', ONE) | {'notes': 0},
        (1, 1, 1),
        'other folders are not read: notes',
    ),
}


class TestFolders:
    @pytest.mark.parametrize(('counts', 'sizes', 'said'), FOLDERS.values(), ids=FOLDERS)
    def test_sizes(self, make_images, recwarn, counts, sizes, said):
        root = make_images(counts)
        found = [open_part(root, part) for part in PARTS]
        assert tuple(map(len, found)) == sizes
        assert len({data.class_names for data in found}) == 1
        messages = ' '.join(str(one.message) for one in recwarn)
        assert bool(messages) == bool(said)
        assert not said or re.search(said, messages)

    @pytest.mark.parametrize('counts', [{'ant': 10}, within('train', {'ant': 10}) | within('test', ONE)])
    @pytest.mark.filterwarnings('ignore')
    def test_drawn_parts_do_not_overlap(self, make_images, counts):
        root = make_images(counts)
        train, val = (
            {data.key(index) for index in range(len(data))}
            for data in (open_part(root, part) for part in PARTS[:2])
        )
        assert not train & val

    @pytest.mark.filterwarnings('ignore')
    def test_the_seed_changes_drawn_parts(self, make_images):
        root = make_images({'ant': 10})
        drawn = [
            [data.key(i) for i in range(5)] for data in (open_part(root, 'train', seed) for seed in (0, 0, 1))
        ]
        assert drawn[0] == drawn[1] != drawn[2]

    def test_labels_are_those_of_the_training_images(self, make_images):
        data = open_part(make_images(within('train', TWO) | within('val', ONE) | {'test/bee': 1}), 'test')
        assert (data.class_names, data.labels) == (('ant', 'bee'), [1])

    def test_all_images_of_a_folder_without_parts(self, make_images):
        root = make_images({'ant': 10})
        assert (has_parts(root), len(open_part(root, 'all'))) == (False, 10)
        root = make_images(within('train', TWO) | within('test', ONE), root / 'parts')
        assert has_parts(root)
        with pytest.raises(InputError, match="has train and test images: use one of them instead of 'all'"):
            open_part(root, 'all')

    @pytest.mark.parametrize('given', ['ant\tworker\nbee\tqueen\n', 'worker\nqueen\n'])
    def test_names(self, make_images, given):
        root = make_images(within('train', TWO) | within('val', ONE) | within('test', TWO))
        (root / 'classes.txt').write_text(given)
        assert {open_part(root, part).class_names for part in PARTS} == {('worker', 'queen')}
        (root / 'classes.txt').unlink()
        assert open_part(root, 'val', class_names=['worker', 'queen']).class_names == ('worker', 'queen')

    @pytest.mark.parametrize(
        ('counts', 'part', 'message'),
        [
            (
                within('train', ONE) | within('val', ONE) | {'test/asp': 1},
                'test',
                "'asp', which is not a class",
            ),
            (within('train', ONE) | within('Training', ONE), 'train', 'keep one'),
            ({'ant': 1}, 'test', 'too few images for test images'),
            ({'ant': 0}, 'train', 'no images in the subfolders'),
            ({'ant_1': 1, 'ant 1': 1}, 'train', 'the same class name'),
        ],
    )
    @pytest.mark.filterwarnings('ignore')
    def test_refuses(self, make_images, counts, part, message):
        with pytest.raises(InputError, match=message):
            open_part(make_images(counts), part)

    def test_refuses_what_is_not_there(self, tmp_path):
        with pytest.raises(InputError, match='is not a folder'):
            open_part(tmp_path / 'absent', 'train')


class TestDatasets:
    @pytest.mark.filterwarnings('ignore')
    def test_a_dataset_and_its_config(self, make_images):
        root = make_images({'ant': 10})
        for data in (LabeledFolder(root), {'type': LabeledFolder, 'root': root}):
            assert len(open_part(data, 'test')) == 3

    def test_a_dataset_of_each_part(self, make_images, tmp_path):
        train, test, other = (
            {'type': LabeledFolder, 'root': make_images(counts, tmp_path / name)}
            for name, counts in {'a': {'ant': 10}, 'b': {'ant': 3}, 'c': {'bee': 3}}.items()
        )
        assert len(open_part({'train': train, 'val': test, 'test': test}, 'train')) == 10
        assert len(open_part({'train': train, 'test': test}, 'test')) == 3
        with pytest.warns(UserWarning, match='80 % train'):
            assert len(open_part({'train': train, 'test': test}, 'train')) == 8
        with pytest.raises(InputError, match=r"other classes .*label 0 is 'bee', not 'ant'"):
            open_part({'train': train, 'test': other}, 'test')
        with pytest.raises(InputError, match="no 'test' images"):
            open_part({'train': train}, 'test')

    @pytest.mark.parametrize('data', [3, {'trian': 1}, None, ['a']])
    def test_refuses(self, data):
        with pytest.raises(InputError, match='data must be a folder, a split file'):
            open_part(data, 'train')

    def test_names_belong_to_the_dataset(self, make_images):
        with pytest.raises(InputError, match='give them to the dataset itself'):
            open_part(LabeledFolder(make_images(ONE)), 'train', class_names=['x'])


class _Own:
    """Like a dataset of torchvision: 10 images of two classes in each split."""

    classes = ('a_b', 'c')
    targets = [0, 1] * 5

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return Image.new('RGB', (4, 4)), self.targets[index]


class _Whole(_Own):
    def __init__(self, root):
        pass


class _Halves(_Own):
    def __init__(self, root, train=True):
        pass


class _Thirds(_Own):
    def __init__(self, root, split='train'):
        if split not in PARTS:
            raise ValueError(split)


TORCHVISION = {
    'whole': ('EuroSAT', _Whole, (4, 2, 4)),
    'halves': ('CIFAR10', _Halves, (8, 2, 10)),
    'thirds': ('DTD', _Thirds, (10, 10, 10)),
}


@pytest.mark.parametrize(('name', 'kind', 'sizes'), TORCHVISION.values(), ids=TORCHVISION)
@pytest.mark.filterwarnings('ignore:.*images of its own')
def test_datasets_of_torchvision(tmp_path, monkeypatch, name, kind, sizes):
    monkeypatch.setattr(datasets, name, kind)
    config = {'type': 'TorchvisionDataset', 'name': name, 'root': tmp_path}
    found = [open_part(config, part) for part in PARTS]
    assert tuple(map(len, found)) == sizes
    assert found[0].class_names == ('a b', 'c')


def test_a_subset_renumbers_its_classes(make_images):
    data = LabeledFolder(make_images({'ant': 1, 'bee': 1, 'cat': 1}))
    subset = ImageSubset(data, [2, 1], [1, 2])
    assert (subset.class_names, subset.labels) == (('bee', 'cat'), [1, 0])
    assert [subset[index]['labels'] for index in range(2)] == [1, 0]
