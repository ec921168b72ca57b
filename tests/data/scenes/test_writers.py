"""Scenes on disk: each layout goes through its usual reader and gives back what was drawn."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from clipdense.data.scenes import (
    ImageSet,
    Scenes,
    formats,
    standard_sets,
    write_coco,
    write_scenes,
    write_shards,
    write_voc,
    writers,
)
from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_mask
from clipdense.vocab.vocabulary import Vocabulary

SCENES = Scenes()
SETS = standard_sets(6, 3)


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp('scenes') / 'out'
    write_scenes(out, num_train=6, num_val=3)
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def drawn(one: ImageSet):
    return [SCENES.draw(index, one.shown, stream=one.name) for index in range(one.count)]


@pytest.mark.parametrize('one', SETS, ids=lambda one: one.name)
def test_voc_masks_and_images(written, one):
    known = {SCENES.class_names.index(name) + 1 for split in one.labeled for name in SCENES.splits[split]}
    for index, scene in enumerate(drawn(one)):
        name = f'{one.name}_{index:06d}'
        expected = np.where(np.isin(scene.mask, [0, *known]), scene.mask, 255)
        np.testing.assert_array_equal(read_mask(written / f'voc/SegmentationClass/{name}.png'), expected)
        image = np.asarray(Image.open(written / f'voc/JPEGImages/{name}.jpg'), int)
        assert np.abs(image - scene.image).mean() < 8  # JPEG


@pytest.mark.parametrize('one', SETS, ids=lambda one: one.name)
def test_voc_boxes(written, one):
    labeled = {name for split in one.labeled for name in SCENES.splits[split]}
    for index, scene in enumerate(drawn(one)):
        root = ElementTree.parse(written / f'voc/Annotations/{one.name}_{index:06d}.xml').getroot()
        found = [
            (
                node.findtext('name'),
                *(int(node.findtext(f'bndbox/{side}')) for side in ('xmin', 'ymin', 'xmax', 'ymax')),
            )
            for node in root.iter('object')
        ]
        expected = [
            (SCENES.class_names[at], box[0] + 1, box[1] + 1, box[2], box[3])
            for at, box in zip(scene.class_ids, scene.boxes.tolist(), strict=True)
            if SCENES.class_names[at] in labeled
        ]
        assert found == expected
        assert root.findtext('size/width') == '32'


def test_training_labels_never_tell_of_novel_or_unseen(tmp_path):
    write_voc(SCENES, tmp_path / 'voc', [standard_sets(80, 0)[0]])
    base = {SCENES.class_names.index(name) + 1 for name in SCENES.base}
    values = {
        value
        for path in (tmp_path / 'voc/SegmentationClass').iterdir()
        for value in np.unique(read_mask(path))
    }
    assert values <= {0, 255, *base}
    assert 255 in values
    text = ''.join(path.read_text() for path in (tmp_path / 'voc/Annotations').iterdir())
    assert not any(name in text for name in (*SCENES.novel, *SCENES.unseen))


@pytest.mark.parametrize(('split', 'count'), [('train', 6), ('val', 9), ('val_base', 3), ('val_unseen', 3)])
def test_our_reader_reads_voc(written, split, count):
    dataset = VOCSegmentation(written / 'voc', split)
    report = dataset.check()
    assert (len(dataset), report.images, report.faults) == (count, count, [])
    assert dataset.vocabulary == SCENES.vocabulary()
    assert Vocabulary.from_file(written / 'voc/classes.txt').class_names == dataset.vocabulary.class_names
    lists = [(written / f'voc/ImageSets/{kind}/{split}.txt').read_text() for kind in ('Segmentation', 'Main')]
    assert lists[0] == lists[1]


@pytest.mark.parametrize('one', SETS, ids=lambda one: one.name)
def test_coco_through_pycocotools(written, one):
    coco = COCO(written / f'coco/annotations/instances_{one.name}.json')
    names = {category['id']: category['name'] for category in coco.dataset['categories']}
    assert list(names.items()) == list(enumerate(SCENES.class_names, 1))
    splits = {category['name']: category['split'] for category in coco.dataset['categories']}
    assert all(splits[name] == split for split in SCENES.splits for name in SCENES.splits[split])
    assert sorted(coco.anns) == list(range(1, len(coco.anns) + 1))
    for image_id, scene in enumerate(drawn(one), 1):
        found = coco.loadAnns(coco.getAnnIds(image_id))
        labeled = [at for at in scene.class_ids if splits[SCENES.class_names[at]] in one.labeled]
        assert [names[ann['category_id']] for ann in found] == [SCENES.class_names[at] for at in labeled]
        for ann in found:
            mask = scene.mask == ann['category_id']
            np.testing.assert_array_equal(coco.annToMask(ann), mask)
            left, top, width, height = ann['bbox']
            rows, columns = np.nonzero(mask)
            assert [left, top] == [columns.min(), rows.min()]
            assert [width, height] == [np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert (ann['area'], ann['iscrowd']) == (mask.sum(), 0)
        info = coco.loadImgs(image_id)[0]
        assert Image.open(written / 'coco/images' / info['file_name']).size == (info['width'], info['height'])


def test_coco_captions(written):
    texts = COCO(written / 'coco/annotations/captions_train.json')
    captions = [texts.loadAnns(texts.getAnnIds(number))[0]['caption'] for number in range(1, 7)]
    assert captions == [scene.caption for scene in drawn(SETS[0])]
    everything = COCO(written / 'coco/annotations/captions_val.json')
    assert len(everything.anns) == 9


@pytest.mark.parametrize('one', SETS, ids=lambda one: one.name)
def test_shards(written, one):
    with tarfile.open(written / f'shards/{one.name}/000000.tar') as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    names = [f'{one.name}_{index:06d}' for index in range(one.count)]
    assert list(members) == [f'{name}.{ending}' for name in names for ending in ('jpg', 'txt', 'json')]
    for name, scene in zip(names, drawn(one), strict=True):
        assert members[f'{name}.txt'].decode() == scene.caption
        facts = {'caption': scene.caption, 'class_names': [SCENES.class_names[at] for at in scene.class_ids]}
        assert json.loads(members[f'{name}.json']) == facts
        assert Image.open(io.BytesIO(members[f'{name}.jpg'])).size == (32, 32)


def test_long_sets_are_cut_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, '_SHARD_SIZE', 4)
    write_shards(SCENES, tmp_path / 'shards', standard_sets(9, 1))
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*.tar'))
    assert files[:3] == [f'shards/train/00000{number}.tar' for number in range(3)]
    assert len(files) == 6
    with tarfile.open(tmp_path / 'shards/train/000002.tar') as tar:
        assert len(tar.getnames()) == 3


@pytest.mark.parametrize('workers', [0, 2])
def test_the_same_bytes_again(written, tmp_path, workers):
    write_scenes(tmp_path / 'again', num_train=6, num_val=3, workers=workers)
    assert contents(tmp_path / 'again') == contents(written)


@pytest.mark.parametrize(
    ('write', 'name'), [(write_voc, 'voc'), (write_coco, 'coco'), (write_shards, 'shards')]
)
def test_one_layout_alone_is_the_same(written, tmp_path, write, name):
    write(SCENES, tmp_path / 'alone', SETS)
    assert contents(tmp_path / 'alone') == contents(written / name)


def test_overwriting_is_asked_for_and_only_touches_scenes(tmp_path):
    out = tmp_path / 'out'
    write_scenes(out, 'easy', num_train=2, num_val=1)
    (out / 'notes.txt').write_text('mine')
    with pytest.raises(InputError, match='already contains scenes'):
        write_scenes(out, num_train=3, num_val=1)
    write_scenes(out, num_train=3, num_val=1, overwrite=True)
    assert len(list((out / 'voc/JPEGImages').iterdir())) == 6
    assert json.loads((out / 'scenes.json').read_text())['difficulty'] == 'standard'
    assert (out / 'notes.txt').read_text() == 'mine'
    assert sorted(path.name for path in out.iterdir()) == [
        'coco',
        'notes.txt',
        'scenes.json',
        'shards',
        'voc',
    ]


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / 'coco').mkdir()
    (tmp_path / 'coco' / 'precious.jpg').touch()
    with pytest.raises(InputError, match='does not contain generated scenes'):
        write_scenes(tmp_path, num_train=1, num_val=1, overwrite=True)
    assert (tmp_path / 'coco' / 'precious.jpg').exists()


@pytest.mark.parametrize(
    'error', [OSError(28, 'No space left on device'), KeyboardInterrupt()], ids=['full', 'stop']
)
def test_a_run_that_fails_leaves_what_was_there(tmp_path, monkeypatch, error):
    out = tmp_path / 'out'
    write_scenes(out, num_train=2, num_val=1)
    before = contents(out)

    def fail(self, image):
        raise error

    monkeypatch.setattr(writers.ShardWriter, 'add', fail)
    expected = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match='No space left' if expected is InputError else None):
        write_scenes(out, num_train=3, num_val=1, overwrite=True)
    assert contents(out) == before


def test_a_file_in_the_way(tmp_path):
    (tmp_path / 'out').touch()
    with pytest.raises(InputError, match='does not contain generated scenes'):
        write_scenes(tmp_path / 'out', num_train=1, num_val=1)


@pytest.mark.parametrize(
    ('mask', 'counts'),
    [
        ([[0, 0], [0, 0]], [4]),
        ([[1, 1], [1, 1]], [0, 4]),
        ([[0, 1], [1, 1]], [1, 3]),
        ([[1, 0], [0, 1]], [0, 1, 2, 1]),
        ([[0, 1, 0]], [1, 1, 1]),
    ],
)
def test_run_lengths_go_down_columns(mask, counts):
    assert writers.run_lengths(np.array(mask, bool)) == counts
