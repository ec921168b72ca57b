"""Conversions of tiny files in the official formats: sources stay as they are, interruptions cost nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from clipdense.data.segmentation.published import conversion
from clipdense.data.segmentation.published.prepare import prepare
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_mask

CONVERTED = {
    'coco_stuff': (
        'coco_stuff164k/annotations/val2017',
        {
            '000000000139_labelTrainIds.png': [[0, 10, 11], [23, 255, 170]],
            '000000000285_labelTrainIds.png': [[79, 80, 59], [80, 80, 60]],
        },
    ),
    'coco_object': (
        'coco_stuff164k/annotations/val2017',
        {
            '000000000139_instanceTrainIds.png': [[1, 11, 12], [24, 0, 0]],
            '000000000285_instanceTrainIds.png': [[80, 0, 60], [0, 0, 61]],
        },
    ),
    'cityscapes': (
        'cityscapes/gtFine/val/frankfurt',
        {'frankfurt_000000_000294_gtFine_labelTrainIds.png': [[0, 255, 18], [13, 255, 11]]},
    ),
    'context': (
        'VOCdevkit/VOC2010/SegmentationClassContext',
        {'2008_000002.png': [[1, 1, 37], [59, 0, 0]]},
    ),
    'ade20k_full': (
        'ADE20K_2021_17_01/annotations_detectron2/validation',
        {'ADE_val_00000001.tif': [[1, 65535, 0], [0, 0, 846]]},
    ),
}


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob('*') if path.is_file()}


@pytest.mark.parametrize(('dataset', 'workers'), [*((name, 0) for name in CONVERTED), ('coco_stuff', 2)])
def test_masks(data, dataset, workers):
    before = contents(data)
    report = prepare(dataset, data, workers=workers)
    folder, masks = CONVERTED[dataset]
    assert not report.faults
    for name, expected in masks.items():
        np.testing.assert_array_equal(read_mask(data / folder / name), expected)
    after = contents(data)
    assert before.items() <= after.items()  # no source was touched
    again = prepare(dataset, data)
    assert (again.made, again.kept) == (0, report.made)
    assert contents(data) == after


@pytest.mark.parametrize(
    ('dataset', 'labels'),
    [('coco_object', 'coco_stuff164k/annotations'), ('cityscapes', 'cityscapes/gtFine')],
)
def test_labels_from_elsewhere(data, tmp_path, dataset, labels):
    """They are converted to where the images are, and nothing is written beside them."""
    elsewhere = tmp_path / 'elsewhere'
    (data / labels).rename(elsewhere)
    before = contents(elsewhere)
    prepare(dataset, data, source=elsewhere)
    folder, masks = CONVERTED[dataset]
    for name, expected in masks.items():
        np.testing.assert_array_equal(read_mask(data / folder / name), expected)
    assert contents(elsewhere) == before


def test_own_folder_and_benchmark_names_will_do(data):
    assert prepare('Context-59', data / 'VOCdevkit/VOC2010').made == 1
    assert (data / 'VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt').read_text() == '2008_000002\n'
    assert prepare('voc21', data).made == 0  # needs none


def test_an_interruption_costs_nothing(data, monkeypatch):
    """Stopped in the second file: the first is whole and is kept, of the second nothing is left."""
    write = conversion.atomic_write

    def stop(path, *arguments):
        if '285' in str(path):
            raise KeyboardInterrupt
        return write(path, *arguments)

    monkeypatch.setattr(conversion, 'atomic_write', stop)
    before = contents(data)
    with pytest.raises(KeyboardInterrupt):
        prepare('coco_stuff', data)
    assert len(contents(data)) == len(before) + 1
    monkeypatch.undo()
    report = prepare('coco_stuff', data)
    assert (report.made, report.kept) == (1, 1)


def test_context_from_matlab_files(data):
    root = data / 'VOCdevkit/VOC2010'
    (root / 'ImageSets/Main').mkdir(parents=True)
    (root / 'ImageSets/Main/val.txt').write_text('2008_000002\n')
    (root / 'trainval').mkdir()
    label_map = np.array([[2, 1, 284], [458, 459, 9]], np.uint16)
    savemat(root / 'trainval/2008_000002.mat', {'LabelMap': label_map})
    assert prepare('context', root, source=root / 'trainval').made == 1
    mask = read_mask(root / 'SegmentationClassContext/2008_000002.png')
    np.testing.assert_array_equal(mask, [[1, 0, 37], [59, 0, 2]])


def test_augmented_voc(data):
    """VOC's own masks where it has them, the added ones elsewhere; validation images are not trained on."""
    root, boundaries = data / 'VOCdevkit/VOC2012', data / 'VOCdevkit/VOCaug/dataset'
    (boundaries / 'cls').mkdir(parents=True)
    for name, mask in {'2007_000042': [[1, 1]], '2007_000061': [[0, 15]], '2007_000033': [[2, 2]]}.items():
        annotation = {'Segmentation': np.array(mask, np.uint8), 'CategoriesPresent': [1]}
        savemat(boundaries / f'cls/{name}.mat', {'GTcls': annotation})
    (boundaries / 'train.txt').write_text('2007_000042\n2007_000061\n')
    (boundaries / 'val.txt').write_text('2007_000033\n')
    assert prepare('voc_aug', data).made == 3
    folder = root / 'SegmentationClassAug'
    np.testing.assert_array_equal(read_mask(folder / '2007_000061.png'), [[0, 15]])
    own = (root / 'SegmentationClass/2007_000042.png').read_bytes()
    assert (folder / '2007_000042.png').read_bytes() == own
    assert (root / 'ImageSets/Segmentation/aug.txt').read_text() == '2007_000061\n'
    assert (root / 'ImageSets/Segmentation/trainaug.txt').read_text() == '2007_000042\n2007_000061\n'


def test_large_images_of_ade20k_are_shrunk(data):
    prepare('ade20k_full', data)
    root = data / 'ADE20K_2021_17_01'
    sizes = [
        Image.open(root / f'{kind}_detectron2/validation/ADE_val_0000000{number}').size
        for kind, number in [('images', '1.jpg'), ('images', '2.jpg'), ('annotations', '2.tif')]
    ]
    assert sizes == [(3, 2), (853, 512), (853, 512)]


def test_a_broken_source_does_not_stop_the_others(data):
    (data / 'coco_stuff164k/annotations/val2017/000000000139.png').write_bytes(b'\x89PNG')
    Image.new('L', (3, 2), 90).save(data / 'coco_stuff164k/annotations/val2017/000000000300.png')
    report = prepare('coco_stuff', data)
    assert (report.made, len(report.faults)) == (1, 2)
    assert '000000000139.png' in report.faults[0]
    assert 'labels that this dataset does not define: 90 (6 pixels)' in report.faults[1]


def test_broken_matlab_file(data):
    root = data / 'VOCdevkit/VOC2010'
    (root / 'ImageSets/Main').mkdir(parents=True)
    (root / 'ImageSets/Main/val.txt').write_text('2008_000002\n')
    (root / 'mats').mkdir()
    (root / 'mats/2008_000002.mat').write_bytes(b'<html>')
    report = prepare('context', root, source=root / 'mats')
    assert 'cannot read a mask under LabelMap' in report.faults[0]


def remove(path: Path) -> None:
    path.rename(path.with_name('gone'))


@pytest.mark.parametrize(
    ('dataset', 'spoil', 'message'),
    [
        ('citiscapes', None, "'citiscapes'. Did you mean 'cityscapes'"),
        ('coco_stuff', 'coco_stuff164k/annotations', r'no label maps .*stuffthingmaps_trainval2017.zip'),
        ('cityscapes', 'cityscapes/gtFine', r'no \*_labelIds.png in .*cityscapes-dataset.com'),
        (
            'context',
            'VOCdevkit/VOC2010/trainval_merged.json',
            'trainval_merged.json does not exist; download it',
        ),
        ('voc_aug', None, 'has no folder cls; .*benchmark.tgz'),
        ('ade20k_full', 'ADE20K_2021_17_01/images', r'no \*_seg.png in .*ADE20K'),
        ('context', 'VOCdevkit', 'Context60 not found in .*VOCdevkit/VOC2010'),
    ],
)
def test_missing_sources_are_named(data, dataset, spoil, message):
    if spoil:
        remove(data / spoil)
    with pytest.raises(InputError, match=message):
        prepare(dataset, data)


@pytest.mark.parametrize('content', ['{', '{"images": []}', '[]', '{"images": [{"image_id": 1}]}'])
def test_another_json_for_context(data, content):
    (data / 'VOCdevkit/VOC2010/trainval_merged.json').write_text(content)
    with pytest.raises(InputError, match=r'is not (the trainval_merged.json of PASCAL in Detail|valid JSON)'):
        prepare('context', data)
