"""The tables below "Names in datasets" of docs/input_contract.md."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clipdense.cli.detect import class_thresholds
from clipdense.data.classification.datasets import LabeledFolder
from clipdense.data.segmentation.datasets import LabeledImages, VOCSegmentation
from clipdense.tasks.detection import DetectionRules
from clipdense.vocab.vocabulary import Vocabulary

from .calls import each

SECTION = 'Names in datasets'


def _folder(text=None, folders=('cat', 'dog'), **options):
    def run(root):
        for name in folders:
            (root / 'images' / name).mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (8, 8)).save(root / 'images' / name / 'a.png')
        if text is not None:
            (root / 'images/classes.txt').write_text(text, 'utf-8')
        return LabeledFolder(root / 'images', **options)

    return run


def _two_lists(root):
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    Image.new('RGB', (2, 1)).save(root / 'JPEGImages/a.png')
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(root / 'SegmentationClass/a.png')
    (root / 'ImageSets/Segmentation/val.txt').write_text('a\n')
    (root / 'classes.txt').write_text('cat\nHot_Dog\n')
    Vocabulary(['Cat', 'hot dog']).save(root / 'vocabulary.json')
    assert VOCSegmentation(root).vocabulary.class_names == ('Cat', 'hot dog')
    (root / 'classes.txt').write_text('dog\ncat\n')
    VOCSegmentation(root)


def _folder_names(root):
    data = _folder(
        folders=['cafe\u0301', 'tea'], class_names={'caf\u00e9': 'coffee', 'Tea': 'chai', 'x': 'y'}
    )(root)
    assert data.class_names == ('coffee', 'chai')


def _masks(stored, asked, *labels):
    """Class indices of the mask values 0, 1, ... of a dataset."""

    def run(folder):
        Image.new('RGB', (len(stored), 1)).save(folder / 'a.png')
        Image.fromarray(np.arange(len(stored), dtype=np.uint8)[None]).save(folder / 'mask.png')
        data = LabeledImages(
            folder, [folder / 'a.png'], [folder / 'mask.png'], Vocabulary(stored), Vocabulary(asked)
        )
        assert data[0]['samples'].mask[0].tolist() == list(labels)

    return run


def _coco(folder, categories, **options):
    from clipdense.data.detection.datasets import CocoDetection

    Image.new('RGB', (20, 20)).save(folder / 'a.jpg')
    content = {
        'images': [{'id': 1, 'file_name': 'a.jpg', 'width': 20, 'height': 20}],
        'annotations': [{'id': 1, 'image_id': 1, 'category_id': 7, 'bbox': [1, 1, 8, 8], 'area': 64}],
        'categories': [{'id': number, 'name': name} for number, name in categories],
    }
    (folder / 'a.json').write_text(json.dumps(content))
    return CocoDetection(folder / 'a.json', folder, **options)


def _config_spelling(folder):
    from clipdense.evaluation.detection.metric import DetectionAP

    data = _coco(folder, [(3, 'Dog '), (7, 'traffic_light')], classes=['Traffic Light', 'dog'], novel=['DOG'])
    assert data.vocabulary.class_names == ('Traffic Light', 'dog')
    assert data.vocabulary.novel == {'dog'}
    assert data[0]['data_samples'].gt_instances.labels.tolist() == [0]
    metric = DetectionAP()
    metric.dataset_meta = data.metainfo
    found = [{'image_id': 1, 'category_id': 0, 'bbox': [1, 1, 8, 8], 'score': 0.9}]
    assert metric.compute_metrics([(1, found)])['base/AP'] == pytest.approx(1)


READ = {
    '`Traffic_Light` asked of masks of `traffic light`': _masks(
        ['cat', 'traffic light', 'Caf\u00e9'], ['Traffic_Light', 'cafe\u0301', 'CAT.'], 2, 0, 1
    ),
    'COCO categories in another spelling than the config': _config_spelling,
    'a vocabulary of the same size without a common name': _masks(['cat', 'dog'], ['Katze', 'Hund'], 0, 1),
    'a vocabulary with other names, and common ones in another order': _masks(
        ['cat', 'dog', 'cow'], ['dog', 'kitten', 'cow']
    ),
    '`vocabulary.json` and `classes.txt` of a mask dataset that differ': _two_lists,
    'a dict of folders and names, with accents in another form': _folder_names,
    'two names of one folder in `classes.txt`': _folder('cat\ttom\ndog\trex\ncat\ttiger\n'),
    'two folders of one name': each(_folder('tom\nTom.\n'), _folder('dog\ttom\ncat\tTOM')),
    'two thresholds of one class': each(
        lambda _: class_thresholds(['cat=0.5', 'Cat=0.6'], Vocabulary(['cat'])),
        lambda _: DetectionRules(0.3, {'cat': 0.5, 'CAT': 0.6}).thresholds(Vocabulary(['cat'])),
    ),
    'two categories `cat` and `Cat`': lambda folder: _coco(folder, [(7, 'cat'), (8, 'Cat')]),
    'a novel class that the annotations lack': lambda folder: _coco(folder, [(7, 'cat')], novel=['zebra']),
}


def test_row(row, check):
    check(row, READ)
