"""The tables below "Detection annotations" of docs/input_contract.md."""

from __future__ import annotations

import copy
import json
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from clipdense.data.detection.coco import check_coco, read_coco
from clipdense.data.detection.datasets import CocoDetection, VOCDetection
from clipdense.data.run_lengths import to_pixels
from clipdense.evaluation.detection.coco import coco_precision, lvis_precision
from clipdense.evaluation.detection.metric import DetectionAP
from clipdense.evaluation.detection.voc import voc_average_precision
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from . import roboflow_exports

SECTION = 'Detection annotations'

BOX = [10, 5, 20, 20]
PIXELS = np.zeros((40, 60), np.uint8)
PIXELS[5:25, 10:30] = 1
CODED = coco_mask.encode(np.asfortranarray(PIXELS))
RUNS = {'size': [40, 60], 'counts': [405, *[20, 20] * 19, 20, 1215]}
FORMS = {
    'polygon': [[10, 5, 30, 5, 30, 25, 10, 25]],
    'numbers': RUNS,
    'text': {'size': [40, 60], 'counts': CODED['counts'].decode()},
    'bytes': {'size': [40, 60], 'counts': CODED['counts']},
}
TRUTH = {
    'images': [
        {'id': 7, 'width': 60, 'height': 40, 'file_name': 'a.png'},
        {'id': 8, 'width': 60, 'height': 40, 'file_name': 'b.png'},
    ],
    'categories': [{'id': 3, 'name': 'cat'}, {'id': 90, 'name': 'dog'}],
    'annotations': [
        {'id': n, 'image_id': 7 + n, 'category_id': 90, 'bbox': BOX, 'area': 400, 'iscrowd': 0}
        | {'segmentation': FORMS['polygon']}
        for n in range(2)
    ],
}
FOUND = [
    {'image_id': 7 + n, 'category_id': 90, 'bbox': BOX, 'score': 0.9, 'segmentation': FORMS['text']}
    for n in range(2)
]
HANGS = {'size': [40, 60], 'counts': 'o' * 200 + '0'}  # a run length of a thousand bits


def truth(part='annotations', index=0, without='', **changes):
    """The ground truth with one entry changed."""
    data = copy.deepcopy(TRUTH)
    data[part][index] |= changes
    if without:
        del data[part][index][without]
    return data


def objects(keep=lambda one: True, **changes):
    """A check of the annotations whose first object is changed; looks at that object."""
    return lambda root: _hold(keep(check_coco(truth(**changes), 'file')['annotations'][0]))


def _hold(value):
    assert value


def each(check, values):
    """All values are refused; the refusal of the last one is looked at."""

    def run(root):
        for value in values[:-1]:
            with pytest.raises(InputError) as caught:
                check(value)
            assert '\n' not in str(caught.value)
        check(values[-1])

    return run


def changed(key, part='annotations'):
    return lambda value: check_coco(truth(part, **{key: value}), 'file')


def ids(root):
    data = copy.deepcopy(TRUTH)
    data['annotations'][1]['id'] = np.int64(5)
    data['images'][0]['id'] = data['annotations'][0]['image_id'] = 0
    assert [one['id'] for one in check_coco(data)['annotations']] == [1, 2]
    found = [{**FOUND[0], 'image_id': 0}, FOUND[1]]
    assert coco_precision(data, found).means(['dog'])['AP'] == pytest.approx(1)


def twice(root):
    for part in ('images', 'categories'):
        with pytest.raises(InputError, match='not unique'):
            check_coco(truth(part, 1, id=TRUTH[part][0]['id']))
    check_coco(truth(index=1, id=0))


def dropped(root):
    assert len(check_coco(truth(bbox=[5, 5, 0, 9]))['annotations']) == 1


def none_have(key):
    def check(root):
        data = copy.deepcopy(TRUTH)
        for one in data['annotations']:
            del one[key]
        assert [one['iscrowd'] for one in check_coco(data)['annotations']] == [0, 0]

    return check


def area(root):
    """Of the mask, here half of the box."""
    half = [[10, 5, 30, 5, 30, 15, 10, 15]]
    assert check_coco(truth(without='area', segmentation=half))['annotations'][0]['area'] == 200


def corners(root):
    data = truth(bbox=[30, 20, 50, 39])
    data['annotations'][1]['bbox'] = [20, 15, 59, 40]
    check_coco(data, 'file')


def text(*contents):
    def check(content):
        check.root.joinpath('instances.json').write_bytes(content)
        read_coco(check.root / 'instances.json')

    def run(root):
        check.root = root
        each(check, contents)(root)

    return run


def no_file(root):
    os.mkfifo(root / 'pipe')
    each(read_coco, ['/dev/zero', root, root / 'pipe'])(root)


def dataset(root, data, size=(60, 40), **options):
    for name in ('a.png', 'b.png'):
        Image.new('RGB', size).save(root / name)
    (root / 'a.json').write_text(json.dumps(data))
    return CocoDetection(root / 'a.json', root, **options)


def capitals(root):
    found = dataset(root, TRUTH, classes=['DOG'], novel=['Dog'])
    assert found.vocabulary == Vocabulary(('DOG',), novel=frozenset({'DOG'}))
    assert len(found[0]['data_samples'].gt_instances) == 1


def forms(root):
    for form in FORMS.values():
        kept = check_coco(truth(segmentation=form))['annotations'][0]
        assert (to_pixels(kept['segmentation'], (40, 60)) == PIXELS).all()
        assert coco_precision(truth(segmentation=form), FOUND, 'segm').means()['AP'] == pytest.approx(1)


def without_masks(score):
    def check(root):
        for missing in ({'segmentation': []}, {'segmentation': None}, {'without': 'segmentation'}):
            found = score(root, truth(index=1, **missing))
            assert found.means()['AP'] == pytest.approx(1)

    return check


def crowd(root):
    data = dataset(root, truth(without='segmentation', iscrowd=1), masks=True)
    assert len(data[0]['data_samples'].gt_instances) == 0
    assert data[1]['data_samples'].gt_instances.masks.masks.sum() == 400


def crowds(root):
    data = copy.deepcopy(TRUTH)
    for one in data['annotations']:
        one['iscrowd'] = 1
    dataset(root, data, training=True)


def mask(*values, size=(40, 60)):
    """Masks of an object that are refused."""
    return each(changed('segmentation'), values)


def runs(*counts, size=(40, 60)):
    return mask(*({'size': list(size), 'counts': one} for one in counts))


def over_border(root):
    wide = [[-3, -3, 62, -3, 62, 41, -3, 41]]
    kept = check_coco(truth(segmentation=wide))['annotations'][0]
    assert to_pixels(kept['segmentation'], (40, 60)).all()


def scored(kind='segm', **changes):
    """Detections, of which the second is changed."""

    def check(root):
        results = [FOUND[0], {**FOUND[1], **changes}]
        results[1] = {key: value for key, value in results[1].items() if value is not Ellipsis}
        return coco_precision(TRUTH, results, kind).means()['AP']

    return check


def all_scored(key, values, kind='segm'):
    return each(lambda value: scored(kind, **{key: value})(None), values)


def accepted_detections(root):
    for form in FORMS.values():
        assert scored(segmentation=form)(root) == pytest.approx(1)


def numpy_numbers(root):
    for box in (tuple(BOX), np.array(BOX, np.float32), [np.float32(value) for value in BOX]):
        changes = {'bbox': box, 'score': np.float32(0.9), 'category_id': np.int64(90)}
        assert scored('bbox', **changes)(root) == pytest.approx(1)
        assert voc_average_precision(TRUTH, [FOUND[0], {**FOUND[1], **changes}]) == {'dog': 1}


def nothing(root):
    for kind in ('bbox', 'segm'):
        assert coco_precision(TRUTH, [], kind).means()['AP'] == 0
    assert voc_average_precision(TRUTH, []) == {'dog': 0}


def metric(names=('cat', 'dog'), label=1, images=(7, 8)):
    measured = DetectionAP()
    measured.dataset_meta = {'vocabulary': Vocabulary(names), 'ground_truth': TRUTH}
    boxes = torch.tensor([[10.0, 5, 30, 25]])
    for image in images:
        found = {'bboxes': boxes, 'scores': torch.tensor([0.9]), 'labels': torch.tensor([label])}
        measured.process(None, [{'img_id': image, 'pred_instances': found}])
    return measured.evaluate(len(images))


def limited(root):
    assert metric(images=(7,))['all/AP'] == pytest.approx(1)


def lvis(frequency='f', **lists):
    data = copy.deepcopy(TRUTH)
    for one in data['categories']:
        one['frequency'] = frequency
    for image in data['images']:
        image |= lists
    return lvis_precision(data, FOUND, 'segm').means()['AP']


XML = """<annotation>{filename}<size><width>60</width><height>40</height></size>{objects}</annotation>"""
OBJECT = (
    '<object><name>cat</name><bndbox><xmin>11</xmin><ymin>6</ymin><xmax>30</xmax><ymax>25</ymax></bndbox>'
    '{more}</object>'
)
PLAIN = XML.format(filename='', objects=OBJECT.format(more=''))
BOMB = '<!DOCTYPE a [<!ENTITY b "cat"><!ENTITY c "&b;&b;">]>' + PLAIN.replace('cat', '&c;')
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]>' + PLAIN.replace('cat', '&b;')


def voc(*contents, keep=None):
    """A folder with these annotations, None for a missing file; ``keep`` looks at the first's objects."""

    def check(root):
        for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
            (root / folder).mkdir(parents=True)
        for name, content in zip('abc', contents, strict=False):
            Image.new('RGB', (60, 40)).save(root / f'JPEGImages/{name}.jpg')
            if content is not None:
                (root / f'Annotations/{name}.xml').write_text(content)
        (root / 'ImageSets/Main/val.txt').write_text('\n'.join('abc'[: len(contents)]))
        found = VOCDetection(root, 'val')
        assert keep is None or keep(found.images[0].objects)
        return found[0]

    return check


def voc_with(*contents):
    """Annotations of one image, all refused."""

    def check(root):
        numbers = iter(range(len(contents)))
        each(lambda content: voc(content)(root / str(next(numbers))), contents)(root)

    return check


def replaced(*pairs):
    content = PLAIN
    for old, new in pairs:
        assert old in content
        content = content.replace(old, new)
    return content


def is_box(objects):
    return [(one['bbox'], one['iscrowd']) for one in objects] == [(BOX, 0)]


ENTRIES = {
    "ids from 0, with gaps, of NumPy's types": ids,
    'an id that is text, a float, missing or above 64 bits': each(
        changed('id'), [None, 1.0, True, '1', 10**30]
    ),
    'an id twice': twice,
    'no list `categories`': lambda root: check_coco({'images': [], 'annotations': []}),
    'no images': lambda root: check_coco({**TRUTH, 'images': []}),
    'a category without name': each(changed('name', 'categories'), [None, 5, ' ']),
    'categories `Dog` and `dog`': lambda root: check_coco(truth('categories', 0, name='Dog')),
    'an object of an image or category that is not listed': each(
        lambda change: check_coco(truth(**change)),
        [{'category_id': None}, {'category_id': '90'}, {'image_id': [7]}, {'image_id': '7'}],
    ),
    'an image without width and height': lambda root: check_coco(
        truth('images', width=None, without='height')
    ),
    'width and height as text, 0, negative, fractions': each(
        changed('width', 'images'), ['60', 0, -60, 10**400, math.nan, math.inf, 60.5]
    ),
    'width and height as 60.0': lambda root: _hold(
        check_coco(truth('images', width=60.0))['images'][0]['width'] == 60
    ),
    'an image of 1,000,000 x 1,000,000 pixels': lambda root: check_coco(
        truth('images', width=10**6, height=10**6)
    ),
    'an image file of another size': lambda root: dataset(root, TRUTH, (6, 4))[0],
    'no `bbox`, or not four finite numbers': each(
        changed('bbox'),
        [None, [], [1, 2, 3], 'abcd', [1, 2, 3, None], [1, 2, math.inf, 3], [1, math.nan, 3, 4]],
    ),
    'negative width or height': lambda root: check_coco(truth(bbox=[30, 25, -20, -20])),
    'boxes that fit as corners x1, y1, x2, y2 only': corners,
    'a box beyond the border': objects(lambda one: one['bbox'] == [50, 5, 10, 20], bbox=[50, 5, 20, 20]),
    'a box without area': dropped,
    'no `iscrowd` in any object (LVIS)': none_have('iscrowd'),
    'no `iscrowd` in some objects': objects(lambda one: one['iscrowd'] == 0, without='iscrowd'),
    '`iscrowd` of 2 or text': each(changed('iscrowd'), ['1', 2]),
    'no `area`': area,
    '`area` that is negative, text or not finite': each(changed('area'), ['400', math.nan, 10**400, -1]),
    '`ignore` of 1': objects(lambda one: one['iscrowd'] == 0, ignore=1),
    'text that is not JSON, an empty file, a number': text(b'{"images": [', b'', b'\xff\xfe\xfd', b'5'),
    '100,000 nested brackets': text(b'[' * 100_000),
    'a key twice in one object': text(b'{"images": [1], "images": [2]}'),
    'a named pipe, a folder, `/dev/zero`': no_file,
    'class names of a config in other capitals': capitals,
    'class names of a config that are not in the file': lambda root: dataset(root, TRUTH, classes=['cow']),
}

MASKS = {
    'none, `null` or `[]`, where boxes are measured': without_masks(
        lambda root, data: coco_precision(data, FOUND, 'bbox')
    ),
    'none, `null` or `[]`, where masks are measured': each(
        lambda missing: coco_precision(truth(index=1, **missing), FOUND, 'segm'),
        [{'segmentation': []}, {'segmentation': None}, {'without': 'segmentation'}],
    ),
    'none, in training with `masks=True`': lambda root: dataset(
        root, truth(segmentation=[]), masks=True, training=True
    ),
    'none, for a crowd in training': crowd,
    'crowds only, in training': crowds,
    'one flat list of numbers': mask(FORMS['polygon'][0]),
    'polygons with 2 points or an odd number of values': mask([[1, 2, 3, 4]], [[]], [[1, 2, 3, 4, 5, 6, 7]]),
    'polygons with NaN, text or infinite values': mask(
        [[1, 2, 3, 4, 5, math.nan]], [[1, 2, 3, 4, 5, '6']], [[1, 2, 3, 4, 5, math.inf]]
    ),
    'polygons that reach a little over the border': over_border,
    'polygons at 1e9': mask([[0, 0, 1e9, 0, 1e9, 1e9]], [[0, 0, -1e18, 0, 9, 9]]),
    'run lengths of another size': runs([600], size=(20, 30)),
    'run lengths of (W, H)': runs([2400], size=(60, 40)),
    'run lengths that do not add up to the pixels': runs(
        [], [2399], [2401], [2**40], [2**62, 2**62, 2**62, 2**62, 2400], '', 'Y[2', '0'
    ),
    'negative run lengths': runs([2500, -100], '`0o0O'),
    'run lengths that are fractions, text or too large for 64 bits': runs(
        [2400.0], ['2400'], [True], [None], [2**70]
    ),
    'damaged text of run lengths': runs(
        'o', 'é', '\x00', '{}', 'o' * 100, 'oooooooo0', b'\xff\xff', 'P' * 5000
    ),
    'a size of 1,000,000 x 1,000,000': runs([10**12], size=(10**6, 10**6)),
}

DETECTIONS = {
    "NumPy's numbers, a box as array or tuple": numpy_numbers,
    'no detections at all': nothing,
    'no object of the classes, or crowds only, in the ground truth': lambda root: metric(('cat',), 0),
    'a score that is NaN, infinite, text or missing': all_scored(
        'score', [math.nan, math.inf, 10**400, '0.9', None, Ellipsis]
    ),
    'an image or category that does not exist': each(
        lambda change: scored(**change)(None),
        [{'image_id': 9}, {'image_id': None}, {'image_id': [7]}, {'category_id': 1}],
    ),
    'an image id as text': all_scored('image_id', ['7']),
    'negative width': all_scored('bbox', [[30, 25, -20, -20]], 'bbox'),
    'no mask, where masks are measured': all_scored('segmentation', [None, [], Ellipsis]),
    'no box, where boxes are measured': all_scored('bbox', [None, Ellipsis], 'bbox'),
    'a mask of half the size, or transposed': all_scored(
        'segmentation', [{'size': [20, 30], 'counts': [600]}, {'size': [60, 40], 'counts': [2400]}]
    ),
    'run lengths that make pycocotools hang': all_scored('segmentation', [HANGS]),
    'a dictionary in place of a list': each(
        lambda results: coco_precision(TRUTH, results), [None, 'results.json', {'annotations': FOUND}]
    ),
    'a label that the vocabulary does not have': each(lambda label: metric(label=label), [-1, 2]),
    'a vocabulary with a class that is not in the ground truth': lambda root: metric(('cow', 'dog')),
    'a part of the images (a limit)': limited,
    'LVIS: categories without frequency': lambda root: lvis(None),
    'LVIS: images without `neg_category_ids`': lambda root: _hold(lvis(not_exhaustive_category_ids=[]) == 1),
    'LVIS: an unknown id in `neg_category_ids`': lambda root: lvis(
        neg_category_ids=[3, 999], not_exhaustive_category_ids=[]
    ),
}

VOC = {
    'corners that are fractions, a size of 60.0': voc(
        replaced(('>11<', '>11.0<'), ('>25<', '> 25.00 <'), ('>60<', '>60.0<')), keep=is_box
    ),
    'no `difficult`, `truncated`, `pose`': voc(PLAIN, keep=is_box),
    '`difficult` of 1': voc(
        replaced(('</object>', '<difficult> 1 </difficult></object>')), keep=lambda found: found[0]['iscrowd']
    ),
    '`difficult` that is not 0 or 1': voc_with(
        *(replaced(('</object>', f'<difficult>{one}</difficult></object>')) for one in ('2', 'true', 'yes'))
    ),
    'no `size`, or a size of 0': voc(
        replaced(('<width>60</width><height>40</height>', '<width>0</width>')), keep=is_box
    ),
    'a size that is text or negative': voc_with(
        *(replaced(('>60<', f'>{one}<')) for one in ('wide', '-60', '60.5', 'inf'))
    ),
    'a size that the image does not have': voc(replaced(('>60<', '>600<'))),
    'boxes that begin at 0': voc(
        replaced(('>11<', '>0<')), keep=lambda found: found[0]['bbox'] == [0, 5, 30, 20]
    ),
    'xmax below xmin': voc(replaced(('>30<', '>10<'))),
    'corners that are missing, text or NaN': voc_with(
        *(replaced(('>11<', f'>{one}<')) for one in ('', 'left', 'inf', 'nan'))
    ),
    'an object without name': voc(replaced(('>cat<', '> <'))),
    "another `filename` than the file's own name": voc(
        XML.format(filename='<filename>z.jpg</filename>', objects=OBJECT.format(more='')), keep=is_box
    ),
    '`Cat` and `cat`': voc(PLAIN, PLAIN, replaced(('cat', 'Cat')), keep=is_box),
    'an image without objects': voc(
        XML.format(filename='', objects=''), PLAIN, keep=lambda found: found == []
    ),
    'no objects in any image': voc(XML.format(filename='', objects='')),
    'no XML for an image': voc(PLAIN, None),
    'two of three files damaged': voc(PLAIN, PLAIN[:-20], ''),
    'entities that expand, or name other files': voc_with(OUTSIDE, BOMB),
    'XML of another kind, HTML': voc_with('<html><body>404</body></html>', '<a', '\x00', '<voc/>'),
}

BOTH = 'polygons, run lengths as numbers, as text, as bytes'
READ = (
    ENTRIES
    | MASKS
    | DETECTIONS
    | VOC
    | roboflow_exports.READ
    | {BOTH: lambda root: (forms(root), accepted_detections(root))}
)


def test_row(row, check):
    check(row, READ)


def test_a_bomb_costs_neither_time_nor_memory():
    """Junk on which pycocotools computes for a minute, or writes beyond its arrays."""
    for counts in ('o' * 10_000 + '0', [2**31] * 10_000, 'ooooo1' * 1000):
        with pytest.raises(InputError, match='run length'):
            check_coco(truth(segmentation={'size': [40, 60], 'counts': counts}))
