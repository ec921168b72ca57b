"""Images with boxes, and regions that follow every transform."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from clipdense.data.detection.datasets import CocoDetection, VOCDetection
from clipdense.data.detection.splits import OV_COCO, choose
from clipdense.data.detection.store import Regions, RegionStore, StoreFacts, images_digest
from clipdense.data.detection.transforms import (
    PackDetection,
    RandomCrop,
    RandomFlip,
    RandomResize,
    Resize,
    follow,
)
from clipdense.utils.errors import InputError
from clipdense.vocab.class_names import CLASS_NAMES

BOX = [10, 20, 30, 15]  # x, y, width, height


@pytest.fixture
def folder(tmp_path):
    """Three images of 64 x 48: two objects, one object, none."""
    images = [{'id': n, 'file_name': f'{n}.png', 'width': 64, 'height': 48} for n in (1, 2, 3)]
    objects = [(1, 1, BOX, 0), (1, 2, [0, 0, 20, 20], 1), (2, 2, [30, 10, 20, 30], 0)]
    data = {
        'images': images,
        'categories': [
            {'id': 1, 'name': 'cat', 'split': 'base'},
            {'id': 2, 'name': 'dog', 'split': 'novel'},
        ],
        'annotations': [
            {'id': n, 'image_id': i, 'category_id': c, 'bbox': b, 'iscrowd': crowd}
            for n, (i, c, b, crowd) in enumerate(objects, 1)
        ],
    }
    for one in data['annotations']:
        x, y, width, height = one['bbox']
        one['segmentation'] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    (tmp_path / 'a.json').write_text(json.dumps(data))
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[20:35, 10:40] = 255  # the cat is white
    for one in images:
        Image.fromarray(pixels).save(tmp_path / one['file_name'])
    return tmp_path


def coco(folder, **options):
    return CocoDetection(folder / 'a.json', folder, **options)


def with_regions(folder):
    """A store whose first region is the cat, and whose second is far from it."""
    facts = StoreFacts('', '', (1.0,), images_digest((n, 64, 48) for n in (1, 2, 3)), 2, 4)
    store = RegionStore.create(folder / 'regions', facts, [1, 2, 3])
    boxes = np.array([[10, 20, 40, 35], [50, 36, 64, 48]], np.float32)
    embeddings = np.eye(4, dtype=np.float16)[:2]
    store.write({n: Regions(boxes, embeddings) for n in (1, 2)} | {3: Regions(boxes[:0], embeddings[:0])})
    return folder / 'regions'


def test_an_image(folder):
    item = coco(folder, masks=True)[0]
    sample = item['data_samples']
    assert item['inputs'].shape == (3, 48, 64)
    assert sample.gt_instances.bboxes.tolist() == [[10, 20, 40, 35]]
    assert sample.gt_instances.labels.tolist() == [0]
    assert sample.gt_instances.masks.masks.sum() == 30 * 15
    assert sample.ignored_instances.bboxes.tolist() == [[0, 0, 20, 20]]


@pytest.mark.parametrize(
    ('classes', 'names', 'novel'),
    [
        (None, ('cat', 'dog'), {'dog'}),
        ('base', ('cat',), set()),
        ('novel', ('dog',), {'dog'}),
        (['dog', 'cat'], ('dog', 'cat'), set()),
    ],
)
def test_classes(folder, classes, names, novel):
    vocabulary = coco(folder, classes=classes).vocabulary
    assert vocabulary.class_names == names
    assert vocabulary.novel == novel


def test_training_leaves_out_images_without_objects(folder):
    assert len(coco(folder)) == 3
    assert len(coco(folder, training=True)) == 2
    assert len(coco(folder, training=True, classes='base')) == 1
    assert len(coco(folder, training=True, regions=with_regions(folder))) == 3


TRANSFORMS = {
    'nothing': [],
    'flip': [RandomFlip(prob=1.0)],
    'vertical flip': [RandomFlip(prob=1.0, direction='vertical')],
    'resize': [Resize(scale=(200, 90), keep_ratio=False)],
    'crop': [RandomCrop(crop_size=(40, 50))],
    'all': [
        RandomResize(scale=(64, 48), ratio_range=(0.5, 3.0)),
        RandomFlip(prob=0.5, direction=['horizontal', 'vertical']),
        RandomCrop(crop_size=(0.6, 0.9), crop_type='relative_range'),
        Resize(scale=(77, 99), keep_ratio=False),
    ],
}


@pytest.mark.parametrize('name', TRANSFORMS)
def test_regions_follow_exactly(folder, name):
    """Where the cat's own box goes, its region goes, in every epoch; and its embedding stays with it."""
    dataset = coco(folder, regions=with_regions(folder), transforms=TRANSFORMS[name], pack=PackDetection(0.0))
    followed = 0
    for epoch in range(20 if name in ('crop', 'all') else 1):
        dataset.set_epoch(epoch)
        item = dataset[0]
        sample = item['data_samples']
        cats = sample.gt_instances.bboxes[sample.gt_instances.labels == 0]
        regions = sample.regions
        places = regions.embeddings[:, 0] == 1
        if not len(cats) or not places.any():
            continue
        followed += 1
        torch.testing.assert_close(regions.bboxes[places], cats, atol=1e-3, rtol=0)
        x1, y1, x2, y2 = regions.bboxes[places][0].round().int().tolist()
        assert item['inputs'][:, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].float().mean() > 200  # it is white there
    assert followed


def test_epochs_differ_and_repeat(folder):
    dataset = coco(folder, transforms=TRANSFORMS['all'])
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = dataset[0]['inputs']
    assert torch.equal(first, dataset[0]['inputs'])
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    dataset.set_epoch(1)
    assert dataset[0]['inputs'].shape != first.shape or not torch.equal(dataset[0]['inputs'], first)


def test_workers_that_persist_follow_the_epoch(folder):
    dataset = coco(folder, transforms=TRANSFORMS['all'])
    loader = DataLoader(dataset, batch_size=None, num_workers=1, persistent_workers=True)
    for epoch in (0, 3):
        dataset.set_epoch(epoch)
        assert all(torch.equal(one['inputs'], dataset[at]['inputs']) for at, one in enumerate(loader))


@pytest.mark.parametrize(
    ('visible', 'kept'), [(0.6, 1), (0.4, 2)], ids=['mostly cropped away', 'visible enough']
)
def test_regions_that_are_cropped_away_are_dropped(visible, kept):
    results = {
        'img': np.zeros((48, 32, 3), np.uint8),
        'img_shape': (48, 32),
        'homography_matrix': np.eye(3),
        'regions': Regions(
            np.array([[40, 0, 60, 20], [0, 0, 20, 20], [22, 0, 42, 20]], np.float32),
            np.arange(6, dtype=np.float16).reshape(3, 2),
        ),
    }
    regions = PackDetection(visible)(results)['data_samples'].regions
    assert regions.embeddings.tolist() == [[2, 3], [4, 5]][:kept]
    assert regions.bboxes.tolist() == [[0, 0, 20, 20], [22, 0, 32, 20]][:kept]


def test_following_by_hand():
    """Flipped in 100 pixels, then twice as large, then cut at 150."""
    matrix = np.array([[-2.0, 0, 200], [0, 2, 0], [0, 0, 1]])
    boxes, share = follow(np.array([[10.0, 10, 40, 20]]), matrix, (100, 150))
    assert boxes.tolist() == [[120, 20, 150, 40]]
    assert share.tolist() == pytest.approx([0.5])


def test_ov_coco():
    assert (len(OV_COCO['base']), len(OV_COCO['novel'])) == (48, 17)
    categories = [{'id': n, 'name': name} for n, name in enumerate(CLASS_NAMES['coco'], 1)]
    names, novel = choose(categories, 'ov_coco')
    assert len(names) == 65
    assert novel == set(OV_COCO['novel'])
    assert choose(categories, 'ov_coco/base') == (tuple(n for n in names if n not in novel), frozenset())


@pytest.mark.parametrize(
    ('classes', 'kept'), [('ov_coco', [1, 2]), ('ov_coco/base', [1]), (None, [1, 2, 3, 4])], ids=str
)
@pytest.mark.parametrize('training', [False, True])
def test_ov_coco_leaves_out_images_without_its_classes(folder, classes, kept, training):
    """As published: 4,836 of the 5,000 images to test on.  Images: base, novel, neither, empty."""
    data = json.loads((folder / 'a.json').read_text())
    numbers = {name: number for number, name in enumerate(CLASS_NAMES['coco'], 1)}
    data['categories'] = [{'id': number, 'name': name} for name, number in numbers.items()]
    data['images'].append({'id': 4, 'file_name': '3.png', 'width': 64, 'height': 48})
    shown = {1: 'person', 2: 'cat', 3: 'fire hydrant'}
    data['annotations'] = [
        {'id': image, 'image_id': image, 'category_id': numbers[name], 'bbox': BOX, 'iscrowd': 0}
        for image, name in shown.items()
    ]
    (folder / 'a.json').write_text(json.dumps(data))
    dataset = coco(folder, classes=classes, training=training)
    assert [one.image_id for one in dataset.images] == kept[: 3 if training else 4]


def test_lvis_frequencies():
    letters = {'a': 'r', 'b': 'c', 'c': 'f'}
    categories = [{'id': n, 'name': name, 'frequency': letters[name]} for n, name in enumerate('abc', 1)]
    assert choose(categories, 'base') == (('b', 'c'), frozenset())
    assert choose(categories, None) == (('a', 'b', 'c'), {'a'})


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'classes': ['horse']}, "class names not in the annotations: .'horse'"),
        ({'classes': 'bases'}, "Did you mean 'base'"),
        ({'classes': 'ov_coco'}, 'class names not in the annotations'),
        ({'regions': 'nowhere'}, 'does not contain region embeddings'),
    ],
    ids=['class', 'word', 'not coco', 'is not a store'],
)
def test_refusals(folder, options, message):
    with pytest.raises(InputError, match=message):
        coco(folder, **options)


def test_an_image_of_another_size_is_named(folder):
    Image.new('RGB', (10, 10)).save(folder / '1.png')
    with pytest.raises(InputError, match=r'1\.png is 10 x 10, but 64 x 48 in the annotations'):
        coco(folder)[0]


@pytest.fixture
def voc(tmp_path):
    for part in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / 'ImageSets/Main/train.txt').write_text('one\n')
    Image.new('RGB', (64, 48)).save(tmp_path / 'JPEGImages/one.jpg')
    objects = ''.join(
        f'<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>11</xmin><ymin>21</ymin>'
        '<xmax>40</xmax><ymax>35</ymax></bndbox></object>'
        for name, hard in (('dog', 0), ('cat', 1))
    )
    size = '<size><width>64</width><height>48</height><depth>3</depth></size>'
    (tmp_path / 'Annotations/one.xml').write_text(f'<annotation>{size}{objects}</annotation>')
    return tmp_path


def test_voc(voc):
    """Pixels 11 to 40, both counted, are 10 to 40 as borders; difficult objects are ignored."""
    dataset = VOCDetection(voc, 'train', novel=['cat'])
    sample = dataset[0]['data_samples']
    assert dataset.vocabulary.class_names == ('cat', 'dog')
    assert sample.gt_instances.bboxes.tolist() == [[10, 20, 40, 35]]
    assert sample.gt_instances.labels.tolist() == [1]
    assert sample.ignored_instances.labels.tolist() == [0]


NO_SIZE = '<annotation><size><width>64.5</width></size></annotation>'


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda root: (root / 'Annotations/one.xml').unlink(), '1 of 1 images with an annotation'),
        (lambda root: (root / 'Annotations/one.xml').write_text('<annotation>'), 'is not XML'),
        (lambda root: (root / 'Annotations/one.xml').write_text(NO_SIZE), 'has no valid size/width'),
        (
            lambda root: (root / 'JPEGImages/one.jpg').unlink(),
            '1 of 1 images named in ImageSets/Main/train.txt',
        ),
        (lambda root: (root / 'ImageSets/Main/train.txt').write_text(''), 'train.txt is empty'),
        (lambda root: (root / 'ImageSets/Main/train.txt').unlink(), "has no split 'train'"),
    ],
    ids=['no xml', 'broken xml', 'no size', 'no image', 'empty list', 'no list'],
)
def test_voc_that_cannot_be_read(voc, damage, message):
    damage(voc)
    with pytest.raises(InputError, match=message):
        VOCDetection(voc, 'train')


def test_bccd(real_data):
    dataset = VOCDetection(real_data('bccd'), 'test')
    assert len(dataset) == 72
    assert dataset.vocabulary.class_names == ('Platelets', 'RBC', 'WBC')
    assert dataset[0]['inputs'].shape == (3, 480, 640)
