"""Data sets in every format, read again by other programs and by the readers that training uses."""

from __future__ import annotations

import csv
import json
import urllib.parse
import warnings
import xml.etree.ElementTree as Xml
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from clipdense.data.detection.coco import read_coco
from clipdense.data.detection.voc import read_voc
from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.inference.formats import FORMATS, DatasetWriter, LabelOptions
from clipdense.inference.formats.labelstudio import brush
from clipdense.inference.formats.outlines import polygon, polygons
from clipdense.inference.results import Detections, Segmentation
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

NAMES = Vocabulary(('background', 'car', 'traffic light'), background='background')
MASK = np.zeros((12, 16), int)
MASK[1:7, 1:7] = 1
MASK[3:5, 3:5] = 0  # a hole
MASK[9, 14] = 2  # one pixel
MASK[11, 0] = MASK[10, 1] = 2  # two pixels that touch by their corners
SIZE = (12, 16)
BOXES = np.array([[1.5, 2, 9, 10], [-3, -3, 2, 2], [20, 20, 30, 30]], float)  # the last one is outside


def photo(path: Path, size=SIZE, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size[::-1], 60).convert('RGB').save(path, **options)
    return path


def segmentation(mask=MASK, vocabulary=NAMES) -> Segmentation:
    scores = np.full(mask.shape, 0.75, np.float32)
    return Segmentation(mask, scores, vocabulary, Image.new('RGB', mask.shape[::-1]))


def detections(masks=False, boxes=BOXES) -> Detections:
    chosen = np.zeros((len(boxes), *SIZE), bool)
    chosen[:, 2:10, 1:9] = True
    labels, scores = np.arange(len(boxes)) % 2 + 1, np.linspace(0.9, 0.2, len(boxes))
    return Detections(boxes, scores, labels, NAMES, chosen if masks else None, Image.new('RGB', SIZE[::-1]))


def write(folder: Path, to: str, results: list, paths: list[Path] | None = None, **options) -> DatasetWriter:
    """A data set of images and their results."""
    paths = paths or [photo(folder.parent / 'photos' / f'{at}.png') for at in range(len(results))]
    writer = DatasetWriter(folder, to, paths, results[0].vocabulary, LabelOptions(**options))
    for index, result in enumerate(results):
        writer.add(index, result)
    writer.finish()
    return writer


def filled(rings: list) -> np.ndarray:
    """The pixels of polygons, by pycocotools."""
    flat = [[float(value) for point in ring for value in point] for ring in rings]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *SIZE))).astype(bool)


# Outlines


@settings(deadline=None, max_examples=150)
@given(arrays(bool, SIZE))
def test_polygons_give_the_mask_again(mask):
    if mask.any():
        assert (filled(polygons(mask)) == mask).all()
        assert (filled([polygon(mask)]) == mask).all()


def test_an_outline_has_corners_only():
    assert sorted(polygons(np.ones((2, 3), bool), (5, 7))[0]) == [(5, 7), (5, 9), (8, 7), (8, 9)]
    assert polygon(np.zeros((2, 3), bool)) == []


# COCO


@pytest.mark.parametrize('to', ['coco', 'coco-polygons'])
def test_coco_by_pycocotools(tmp_path, to):
    write(tmp_path / 'set', to, [segmentation(), segmentation(MASK * 0)])
    coco = COCO(tmp_path / 'set/annotations.json')
    found = coco.loadAnns(coco.getAnnIds())
    assert [one['area'] for one in found] == [32, 1, 2]
    assert [one['bbox'] for one in found] == [[1, 1, 6, 6], [14, 9, 1, 1], [0, 10, 2, 2]]
    assert [coco.cats[one['category_id']]['name'] for one in found] == ['car', *['traffic light'] * 2]
    drawn = sum(coco.annToMask(one).astype(int) * one['category_id'] for one in found)
    assert (drawn == MASK).all()
    assert [one['file_name'] for one in coco.imgs.values()] == ['0.png', '1.png']


@pytest.mark.parametrize('masks', [False, True])
def test_coco_by_the_reader_of_the_training(tmp_path, masks):
    write(tmp_path / 'set', 'coco', [detections(masks)])
    data = read_coco(tmp_path / 'set/annotations.json', tmp_path / 'set/images')
    assert [one['bbox'] for one in data['annotations']] == [[1.5, 2, 7.5, 8], [0, 0, 2, 2]]
    assert ['segmentation' in one for one in data['annotations']] == [masks] * 2


# YOLO


def test_yolo_boxes(tmp_path):
    write(tmp_path / 'set', 'yolo', [detections(), detections(boxes=np.zeros((0, 4)))])
    about = yaml.safe_load((tmp_path / 'set/data.yaml').read_text())
    assert about['names'] == {0: 'car', 1: 'traffic light'}
    lines = np.loadtxt(tmp_path / 'set/labels/train/0.txt')
    np.testing.assert_allclose(lines[0], [0, 5.25 / 16, 6 / 12, 7.5 / 16, 8 / 12], atol=1e-7)
    assert (tmp_path / 'set/labels/train/1.txt').read_text() == ''
    assert (tmp_path / 'set/images/train/1.png').is_file()


def test_yolo_polygons_keep_holes_and_parts(tmp_path):
    write(tmp_path / 'set', 'yolo-segment', [segmentation()])
    drawn = np.zeros(SIZE, int)
    for line in (tmp_path / 'set/labels/train/0.txt').read_text().splitlines():
        label, *values = line.split()
        points = np.array(values, float).reshape(-1, 2) * SIZE[::-1]
        drawn[filled([points.tolist()])] = int(label) + 1
    assert (drawn == MASK).all()


def test_polygons_need_masks(tmp_path):
    with pytest.raises(InputError, match=r'yolo-segment needs masks.*boxes only: use coco'):
        write(tmp_path / 'set', 'yolo-segment', [detections()])


# PASCAL VOC


def test_voc_boxes_by_the_reader_of_the_training(tmp_path):
    write(tmp_path / 'set', 'voc', [segmentation(), segmentation(MASK * 0)])
    data = read_voc(tmp_path / 'set', 'train')
    assert [one['bbox'] for one in data['annotations']] == [[1, 1, 6, 6], [14, 9, 1, 1], [0, 10, 2, 2]]
    assert [one['name'] for one in data['categories']] == ['car', 'traffic light']
    assert Xml.parse(tmp_path / 'set/Annotations/0.xml').findtext('size/width') == '16'


@pytest.mark.parametrize(('least', 'ignored'), [(1, 0), (2, 1)])
def test_voc_masks_by_the_reader_of_the_training(tmp_path, least, ignored):
    write(tmp_path / 'set', 'voc', [segmentation()], min_area=least)
    data = VOCSegmentation(tmp_path / 'set', 'train')
    mask = data[0]['samples'].mask.numpy()
    assert data.vocabulary.class_names == NAMES.class_names
    assert np.count_nonzero(mask == 255) == ignored  # the pixel that was left out
    assert (mask[mask != 255] == MASK[mask != 255]).all()


def test_voc_masks_of_detections(tmp_path):
    write(tmp_path / 'set', 'voc', [detections(masks=True)])
    mask = VOCSegmentation(tmp_path / 'set', 'train')[0]['samples'].mask.numpy()
    assert set(np.unique(mask)) == {0, 1}
    assert np.count_nonzero(mask) == 64


# LabelMe, Label Studio, a table


def test_labelme(tmp_path):
    write(tmp_path / 'set', 'labelme', [segmentation()])
    content = json.loads((tmp_path / 'set/0.json').read_text())
    assert (tmp_path / 'set' / content['imagePath']).is_file()
    assert (content['imageHeight'], content['imageWidth']) == SIZE
    shapes = content['shapes']
    assert [one['group_id'] for one in shapes] == [None, None, 3, 3]
    assert (filled([one['points'] for one in shapes]) == (MASK > 0)).all()


def decoded(values: list[int]) -> np.ndarray:
    """Label Studio's own format, read bit by bit as its converter documents it."""
    bits = ''.join(f'{value:08b}' for value in values)
    place = 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    found: list[int] = []
    while len(found) < total:
        run = take(1)
        length = take(sizes[take(2)]) + 1
        found += [take(word)] * length if run else [take(word) for _ in range(length)]
    return np.array(found, np.uint8).reshape(-1, 4)


@pytest.mark.parametrize('mask', [MASK > 0, np.ones((300, 300), bool), np.zeros((1, 1), bool), MASK == 2])
def test_label_studio_brushes(mask):
    assert (decoded(brush(mask))[:, 3].reshape(mask.shape) == mask * 255).all()


@pytest.mark.parametrize(
    ('result', 'kind', 'label'),
    [(segmentation(), 'brushlabels', 'car'), (detections(), 'rectanglelabels', 'car')],
)
def test_label_studio_tasks(tmp_path, result, kind, label):
    write(tmp_path / 'set', 'labelstudio', [result])
    (task,) = json.loads((tmp_path / 'set/tasks.json').read_text())
    one = task['predictions'][0]['result'][0]
    assert (one['type'], one['value'][kind], one['original_width']) == (kind, [label], 16)
    address = urllib.parse.unquote(task['data']['image'].partition('?d=')[2])
    assert (tmp_path / 'set' / address).is_file()
    views = Xml.parse(tmp_path / 'set/label_config.xml')
    assert [item.get('value') for item in views.find('BrushLabels')] == ['car', 'traffic light']
    if kind == 'rectanglelabels':
        assert one['value']['x'] == pytest.approx(100 * 1.5 / 16)


def test_a_table(tmp_path):
    write(tmp_path / 'set', 'csv', [segmentation()])
    with open(tmp_path / 'set/objects.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [(one['class'], one['area']) for one in rows][:2] == [('car', '32'), ('traffic light', '1')]


# supervision's loaders, if it is installed


def test_supervision_reads_coco_yolo_and_voc(tmp_path):
    supervision = pytest.importorskip('supervision')
    results = [segmentation(), segmentation(MASK * 0)]
    for to in ('coco', 'yolo-segment', 'voc'):
        write(tmp_path / to, to, results)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        kind = supervision.DetectionDataset
        sets = {
            'coco': kind.from_coco(tmp_path / 'coco/images', tmp_path / 'coco/annotations.json'),
            'yolo-segment': kind.from_yolo(
                tmp_path / 'yolo-segment/images/train',
                tmp_path / 'yolo-segment/labels/train',
                tmp_path / 'yolo-segment/data.yaml',
                force_masks=True,
            ),
            'voc': kind.from_pascal_voc(tmp_path / 'voc/JPEGImages', tmp_path / 'voc/Annotations'),
        }
    for to, found in sets.items():
        labels = {Path(path).name: note for path, _, note in found}
        assert len(labels['0.png']) == 3, to
        assert len(labels['1.png']) == 0, to
        names = [found.classes[index] for index in labels['0.png'].class_id]
        assert names == ['car', 'traffic light', 'traffic light'], to


# Every format


@pytest.mark.parametrize('to', FORMATS)
@pytest.mark.parametrize('result', [segmentation(MASK * 0), detections(True, np.zeros((0, 4)))])
def test_nothing_found(tmp_path, to, result):
    writer = write(tmp_path / 'set', to, [result])
    assert writer.summary == '0 objects in 1 image'


NASTY = ['a/1.jpg', 'b/1.jpg', 'B/1.png', 'new\nline.png', '🚗.png', "it's; a, name.png", 'Ärger.JPG']


@pytest.mark.parametrize('to', FORMATS)
def test_names_of_files_never_collide(tmp_path, to):
    paths = [photo(tmp_path / 'in' / name) for name in NASTY]
    write(tmp_path / 'set', to, [segmentation()] * len(paths), paths)
    copies = [one for one in (tmp_path / 'set').rglob('*') if one.suffix in ('.png', '.jpg')]
    copies = [one for one in copies if one.parent.name != 'SegmentationClass']
    assert len({one.name.casefold() for one in copies}) == (0 if to == 'csv' else len(NASTY))
    if to == 'yolo':
        stems = [one.stem for one in (tmp_path / 'set/labels/train').iterdir()]
        assert sorted(stems) == sorted(one.stem for one in copies)


@pytest.mark.parametrize('to', FORMATS)
def test_names_of_classes(tmp_path, to):
    names = Vocabulary(('<b>', 'Straße 🚗', 'a: b, \'c\' "d"', '#x'))
    write(tmp_path / 'set', to, [segmentation(np.arange(192).reshape(SIZE) // 48, names)])
    if to == 'yolo':
        content = (tmp_path / 'set/data.yaml').read_text(encoding='utf-8')
        assert tuple(yaml.safe_load(content)['names'].values()) == names.class_names
    if to == 'voc':
        assert VOCSegmentation(tmp_path / 'set', 'train').vocabulary.class_names == names.class_names
        found = [one['name'] for one in read_voc(tmp_path / 'set', 'train')['categories']]
        assert sorted(found) == sorted(names.class_names)


@pytest.mark.parametrize(
    ('name', 'mode', 'options', 'copied'),
    [
        ('a.jpg', 'RGB', {}, True),
        ('a.png', 'L', {}, True),
        ('a.jpg', 'CMYK', {}, False),
        ('a.png', 'RGBA', {}, False),
        ('a.tif', 'RGB', {}, False),
        ('turned.jpg', 'RGB', {'turn': 6}, False),
    ],
)
def test_images_are_copied_if_every_program_reads_them_alike(tmp_path, name, mode, options, copied):
    exif = Image.Exif()
    if options:
        exif[0x0112] = options['turn']
    path = tmp_path / name
    image = Image.effect_noise((16, 12), 60).convert(mode)
    image.save(path, **({'exif': exif} if options else {}))
    write(tmp_path / 'set', 'yolo', [segmentation()], [path])
    (copy,) = (tmp_path / 'set/images/train').iterdir()
    assert (copy.read_bytes() == path.read_bytes()) is copied
    assert copied or Image.open(copy).mode == 'RGB'


def test_scores_and_areas_below_the_limits_are_left_out(tmp_path):
    writer = write(tmp_path / 'set', 'csv', [detections(masks=True)], min_score=0.6)
    assert writer.objects == {'car': 1}
    writer = write(tmp_path / 'other', 'csv', [segmentation()], min_area=3)
    assert writer.summary == '1 object in 1 image: 1 car'


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda folder: LabelOptions(min_area=-1), 'min_area must be at least 0'),
        (lambda folder: LabelOptions(min_score=2), 'min_score must be from 0 to 1'),
        (lambda folder: DatasetWriter(folder, 'cocoo', [], NAMES), "Did you mean 'coco'"),
        (
            lambda folder: DatasetWriter(folder, 'coco', ['a.png'], NAMES).add(0, 'no result'),
            'must be a Segmentation or Detections, got str',
        ),
    ],
)
def test_refusals(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path)
