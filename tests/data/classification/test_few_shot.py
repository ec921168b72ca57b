"""Few images of each class: what is drawn, and which classes."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from clipdense.data.classification.few_shot import FewShotImages, class_subset, draw_shots
from clipdense.data.transforms import CenterCrop
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError

LABELS = [0, 1, 0, 1, 0, 1, 0, 1, 1]
KEYS = [f'{"ab"[label]}/{index}' for index, label in enumerate(LABELS)]
pytestmark = pytest.mark.filterwarnings('ignore:.*images of its own')


class TestDrawShots:
    @pytest.mark.parametrize('shots', [1, 2, 4])
    def test_so_many_of_each_class(self, shots):
        drawn = draw_shots(LABELS, shots, keys=KEYS)
        assert [LABELS[index] for index in drawn] == [0] * shots + [1] * shots
        assert len(set(drawn)) == 2 * shots

    def test_few_shots_are_part_of_more(self):
        by_shots = [set(draw_shots(LABELS, shots, keys=KEYS)) for shots in (1, 2, 3, 4)]
        assert all(few < more for few, more in pairwise(by_shots))

    def test_seeds_differ(self):
        assert len({tuple(draw_shots(LABELS, 2, seed, KEYS)) for seed in range(8)}) > 3

    def test_the_draw_is_the_same_everywhere(self):
        """Not of Python's generator, whose sequences may change: these numbers never do."""
        assert draw_shots(LABELS, 2, 0, KEYS) == [6, 4, 1, 3]

    @pytest.mark.parametrize('change', ['order', 'another class', 'renumbered'])
    def test_it_depends_on_the_keys_of_a_class_only(self, change):
        pairs = list(zip(KEYS, LABELS, strict=True))
        if change == 'order':
            pairs = pairs[::-1]
        elif change == 'another class':
            pairs += [('c/0', 2), ('c/1', 2)]
        else:
            pairs = [(key, label + 5) for key, label in pairs]
        keys, labels = zip(*pairs, strict=True)
        drawn = {keys[index] for index in draw_shots(labels, 2, keys=keys)}
        assert {key for key in drawn if key[0] != 'c'} == {
            KEYS[at] for at in draw_shots(LABELS, 2, keys=KEYS)
        }

    def test_what_cannot_be_used_is_replaced(self):
        first = draw_shots(LABELS, 1, keys=KEYS)[0]
        with pytest.warns(UserWarning, match=rf'1 image cannot be read, and others are drawn: {KEYS[first]}'):
            drawn = draw_shots(LABELS, 1, keys=KEYS, usable=lambda index: index != first)
        assert first not in drawn
        assert len(drawn) == 2

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            ({'shots': 0}, 'shots must be a whole number of at least 1, got 0'),
            ({'shots': 2.5}, 'shots must be .* got 2.5'),
            ({'shots': True}, 'shots must be .* got True'),
            ({'shots': '4'}, "shots must be .* got '4'"),
            ({'seed': -1}, 'seed must be a whole number of at least 0, got -1'),
            ({'class_names': ['a', 'b', 'c']}, "the class 'c' has no images to draw"),
            ({'usable': lambda index: index % 2}, "the class '?0'? has no images to draw"),
            ({'shots': 5, 'strict': True}, r'1 classes have fewer than 5 images: 0 \(4\)'),
        ],
    )
    def test_refuses(self, change, message):
        with pytest.raises(InputError, match=message):
            draw_shots(**{'labels': LABELS, 'shots': 1, 'keys': KEYS, **change})

    def test_fewer_images_than_shots_are_said(self):
        with pytest.warns(
            UserWarning, match=r'1 classes have fewer than 5 images, of which all are used: 0 \(4\)'
        ):
            assert len(draw_shots(LABELS, 5, keys=KEYS)) == 9


class TestClassSubset:
    @pytest.mark.parametrize(
        ('count', 'classes', 'labels'),
        [
            (5, 'all', [0, 1, 2, 3, 4]),
            (5, 'base', [0, 1, 2]),
            (5, 'new', [3, 4]),
            (4, 'base', [0, 1]),
            (1, 'base', [0]),
            (3, ['Class_2', 'class 0'], [2, 0]),
        ],
    )
    def test_labels(self, count, classes, labels):
        assert class_subset([f'class {number}' for number in range(count)], classes) == labels

    @pytest.mark.parametrize(
        ('classes', 'message'),
        [
            (
                'novel',
                r"a list of class names, got 'novel'; for one class write \['novel'\]",
            ),
            (['dog'], "has no class 'dog': it has cat"),
            ([3], 'has no class 3'),
            ([], 'one or more different class names'),
            (['cat', 'Cat'], 'one or more different class names'),
            ('new', '1 class has no new half'),
        ],
    )
    def test_refuses(self, classes, message):
        with pytest.raises(InputError, match=message):
            class_subset(['cat'], classes)


class TestFewShotImages:
    def test_items(self, make_images):
        root = make_images({'ant': 9, 'bee': 9, 'cat': 9})
        config = {'type': 'FewShotImages', 'data': str(root), 'shots': 2, 'classes': 'new'}
        data = DATASETS.build({**config, 'transform': {'type': 'CenterCrop', 'size': 4}})
        assert data.class_names == data.vocabulary.class_names == ('cat',)
        assert data.labels == [data[index]['labels'] for index in range(2)] == [0, 0]
        assert data[0]['images'].shape == (3, 4, 4)
        assert [key.split('/')[0] for key in map(data.key, range(2))] == ['cat', 'cat']

    def test_all_images_of_a_part(self, make_images):
        root = make_images({'train/ant': 3, 'train/bee': 4, 'val/ant': 2, 'test/ant': 1, 'test/bee': 2})
        sizes = {part: len(FewShotImages(root, part)) for part in ('train', 'val', 'test')}
        assert sizes == {'train': 7, 'val': 2, 'test': 3}
        assert FewShotImages(root, 'test', classes='new').labels == [0, 0]

    def test_a_copied_dataset_gives_the_same_shots(self, make_images, tmp_path):
        counts = {'ant': 9, 'bee': 9}
        drawn = [
            [data.key(index) for index in range(len(data))]
            for data in (
                FewShotImages(make_images(counts, tmp_path / name), shots=2, seed=3) for name in 'xy'
            )
        ]
        assert drawn[0] == drawn[1]

    def test_damaged_images_are_not_drawn(self, make_images):
        root = make_images({'train/ant': 4, 'val/ant': 1, 'test/ant': 1})
        first = FewShotImages(root, shots=1).key(0)
        (root / 'train' / first).write_bytes(b'')
        with pytest.warns(UserWarning, match='1 image cannot be read'):
            data = FewShotImages(root, shots=1)
        assert data.key(0) == FewShotImages(root, shots=1, seed=0).key(0) != first

    def test_a_damaged_image_of_an_evaluation_is_skipped(self, make_images):
        root = make_images({'train/ant': 1, 'test/ant': 2, 'val/ant': 1})
        (root / 'test/ant/0.png').write_bytes(b'')
        data = FewShotImages(root, 'test', transform=CenterCrop(4))
        assert [data[index]['labels'] for index in range(2)] == [-1, 0]
        assert torch.equal(data[0]['images'], torch.zeros(3, 4, 4, dtype=torch.uint8))

    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            (
                {'split': 'tset'},
                "split must be one of train, val, test, all, got 'tset'. Did you mean 'test'",
            ),
            ({'classes': ['dog']}, "no class 'dog'"),
            ({'shots': 0}, 'shots must be'),
            ({'shots': 8, 'strict': True}, '2 classes have fewer than 8 images'),
            ({'class_names': ['a']}, '1 name, but .* has 2 subfolders'),
        ],
    )
    def test_refuses(self, make_images, options, message):
        with pytest.raises(InputError, match=message):
            FewShotImages(make_images({'ant': 9, 'bee': 9}), **options)
