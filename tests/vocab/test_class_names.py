"""Class lists against torchvision's and the real data's, and the named vocabularies."""

from __future__ import annotations

import pytest

from clipdense import mmcv_ops
from clipdense.utils.errors import InputError
from clipdense.vocab import class_names
from clipdense.vocab.ade20k_full import ADE20K_FULL_IDS, ADE20K_FULL_NAMES
from clipdense.vocab.class_names import (
    BACKGROUND_WORDS,
    CLASS_NAMES,
    VOCABULARY_NAMES,
    imagenet_names,
    named_vocabulary,
)
from clipdense.vocab.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ('name', 'classes', 'queries'),
    [
        ('ade20k', 150, 150),
        ('ade20k_full', 847, 847),
        ('ade20k_sclip', 150, 150),
        ('camvid', 11, 11),
        ('cifar10', 10, 10),
        ('cifar100', 100, 100),
        ('cityscapes', 19, 19),
        ('cityscapes_sclip', 19, 19),
        ('coco', 80, 80),
        ('coco_object', 81, 80 + 25),  # "bed" is a class
        ('coco_object_clearclip', 81, 81),
        ('coco_object_proxyclip', 81, 80 + 17),
        ('coco_object_sclip', 81, 80 + 7 + 26),  # "bed" is asked twice
        ('coco_stuff', 171, 171),
        ('coco_stuff_maskclip', 171, 171),
        ('coco_stuff_sclip', 171, 171),
        ('context59', 59, 59),
        ('context59_maskclip', 59, 59),
        ('context59_sclip', 59, 59),
        ('context60', 60, 60),
        ('context60_groupvit', 60, 60),
        ('context60_sclip', 60, 60),
        ('imagenet', 1000, 1000),
        ('voc20', 20, 20),
        ('voc20_clearclip', 20, 20),
        ('voc20_sclip', 20, 20 + 6 + 4),
        ('voc21', 21, 20 + 26),
        ('voc21_clearclip', 21, 21),
        ('voc21_groupvit', 21, 21),
        ('voc21_proxyclip', 21, 20 + 26),
        ('voc21_sclip', 21, 20 + 6 + 4 + 26),
    ],
)
@pytest.mark.filterwarnings("ignore:'bed' is asked")
def test_named_vocabularies(name, classes, queries):
    vocabulary = named_vocabulary(name)
    assert (len(vocabulary), len(vocabulary.queries)) == (classes, queries)
    assert vocabulary.class_names[0] == 'background' or vocabulary.background is None


def test_every_name_is_tested():
    table = test_named_vocabularies.pytestmark[-1].args[1]
    assert tuple(name for name, *_ in table) == VOCABULARY_NAMES


def test_unknown_name():
    with pytest.raises(InputError, match=r"'vok21'. Did you mean 'voc21'.*cityscapes"):
        named_vocabulary('vok21')


def test_voc_and_coco_as_torchvision():
    meta = pytest.importorskip('torchvision.models._meta')
    assert meta._VOC_CATEGORIES[1:] == [name.replace(' ', '') for name in CLASS_NAMES['voc20']]
    assert [name for name in meta._COCO_CATEGORIES[1:] if name != 'N/A'] == list(CLASS_NAMES['coco'])


def test_cityscapes_as_torchvision():
    labels = pytest.importorskip('torchvision.datasets').Cityscapes.classes
    trained = sorted((label.train_id, label.name) for label in labels if 0 <= label.train_id < 19)
    assert tuple(name for _, name in trained) == CLASS_NAMES['cityscapes']


def test_camvid_as_its_class_file(real_data):
    assert Vocabulary.from_file(real_data('camvid') / 'classes.txt').class_names == CLASS_NAMES['camvid']


def test_coco_is_in_lvis():
    """LVIS names objects as COCO does, but for a few where it prefers a synonym."""
    mmcv_ops.install()
    from mmdet.datasets import LVISV1Dataset

    known = {name.partition('_(')[0].replace('_', ' ') for name in LVISV1Dataset.METAINFO['classes']}
    assert len(set(CLASS_NAMES['coco']) & known) > 60


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_cifar_labels_are_alphabetical(name):
    assert list(CLASS_NAMES[name]) == sorted(CLASS_NAMES[name])


def test_ade20k_landmarks():
    names = CLASS_NAMES['ade20k']
    assert [names[index] for index in (0, 12, 58, 99, 126, 149)] == [
        'wall', 'person', 'screen door', 'buffet', 'animal', 'flag',
    ]  # fmt: skip


def test_background_words():
    assert len(set(BACKGROUND_WORDS)) == 26


def test_sclip_words():
    vocabulary = named_vocabulary('voc21_sclip')
    assert [vocabulary.class_names[index] for index in (4, 11, 16, 20)] == [
        'ship', 'table', 'pottedplant', 'television monitor',
    ]  # fmt: skip
    assert [word for word, index in vocabulary.queries if index == 0] == list(BACKGROUND_WORDS)
    assert [word for word, index in vocabulary.queries if index == 20] == [
        'television monitor', 'tv monitor', 'monitor', 'television', 'screen',
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:'bed' is asked")
@pytest.mark.parametrize(
    ('name', 'position', 'words'),
    [
        ('voc20_clearclip', 19, ['tvmonitor']),
        ('voc21_clearclip', 0, ['background']),
        ('voc21_groupvit', 11, ['table']),
        ('context60_groupvit', 1, ['airplane']),
        ('voc21_proxyclip', 15, ['person']),
        ('coco_object_sclip', 0, list(BACKGROUND_WORDS)),
        ('coco_object_sclip', 60, ['bed']),
        ('coco_object_proxyclip', 0, [
            'sky', 'wall', 'tree', 'wood', 'grass', 'road', 'sea', 'river', 'mountain', 'sands', 'desk',
            'bed', 'building', 'cloud', 'floor', 'hill', 'rail',
        ]),
        ('context60_sclip', 0, ['background']),
        ('context60_sclip', 40, ['pottedplant']),
        ('coco_stuff_sclip', 9, ['trafficlight']),
        ('coco_stuff_sclip', 84, ['building-other']),
        ('coco_stuff_sclip', 167, ['waterdrops']),
        ('coco_stuff_sclip', 170, ['wood']),
        ('coco_stuff_maskclip', 9, ['traffic light']),
        ('coco_stuff_maskclip', 84, ['building']),
        ('coco_stuff_maskclip', 91, ['tile ceiling']),
        ('coco_stuff_maskclip', 167, ['waterdrops']),
        ('context59_maskclip', 0, ['airplane']),
        ('context59_maskclip', 39, ['potted plant']),
        ('ade20k_sclip', 44, ['chestofdrawers']),
        ('cityscapes_sclip', 7, ['trafficsign']),
    ],
)  # fmt: skip
def test_words_of_published_class_files(name, position, words):
    assert [word for word, index in named_vocabulary(name).queries if index == position] == words


def test_bed_of_sclips_coco_object_is_the_background():
    """Both ask for it, as published: of equal scores the first class wins."""
    with pytest.warns(UserWarning, match="'bed' belongs to several classes"):
        assert named_vocabulary('coco_object_sclip').queries[11] == ('bed', 0)


def test_full_ade20k_is_numbered_alphabetically():
    """ADE20K counts its names in alphabetical order, those it added later aside."""
    pairs = sorted(zip(ADE20K_FULL_IDS, ADE20K_FULL_NAMES, strict=True))
    names = [name for number, name in pairs if number < 3100]
    assert names == sorted(names)
    assert len(set(ADE20K_FULL_NAMES)) == len(set(ADE20K_FULL_IDS)) == 847
    assert ADE20K_FULL_NAMES[1] == 'building, edifice'


def test_imagenet_names_are_unique():
    names = imagenet_names()
    assert len({name.lower() for name in names}) == 1000
    assert [names[index] for index in (0, 657, 744, 836, 837)] == [
        'tench', 'missile', 'projectile', 'sunglass', 'sunglasses',
    ]  # fmt: skip


def test_imagenet_without_open_clip(monkeypatch):
    monkeypatch.setattr(class_names.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install open_clip_torch'):
        imagenet_names()
