"""COCO files that are wrong, each with its one line."""

from __future__ import annotations

import copy
import json
import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdense.data.detection.coco import check_coco, file_name, find_images, read_coco
from clipdense.utils.errors import InputError

GOOD = {
    'images': [
        {'id': 1, 'file_name': 'a.jpg', 'width': 100, 'height': 80},
        {'id': 2, 'file_name': 'sub/b.jpg', 'width': 50, 'height': 50},
    ],
    'categories': [{'id': 0, 'name': 'cat'}, {'id': 6, 'name': 'dog'}],
    'annotations': [
        {'id': 11, 'image_id': 1, 'category_id': 0, 'bbox': [0, 0, 10, 10]},
        {'id': 0, 'image_id': 2, 'category_id': 6, 'bbox': [5, 5, 20, 10], 'area': 99, 'iscrowd': 1},
    ],
}


def broken(part: str, index: int, **changes):
    data = copy.deepcopy(GOOD)
    data[part][index] |= changes
    return data


def without(part: str, index: int, key: str):
    data = copy.deepcopy(GOOD)
    del data[part][index][key]
    return data


def test_what_is_missing_is_filled_in_and_ids_begin_at_one():
    kept = check_coco(GOOD)['annotations']
    assert [one['id'] for one in kept] == [1, 2]
    assert [(one['area'], one['iscrowd']) for one in kept] == [(100, 0), (99, 1)]


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        ([], 'is not a COCO file'),
        ({'images': [], 'annotations': []}, "the list 'categories' is missing"),
        (broken('annotations', 1, id=11), '1 ids of annotations are not unique, first 11'),
        (broken('images', 1, id=1), 'ids of images are not unique'),
        (broken('categories', 1, id=0), 'ids of categories are not unique'),
        (without('annotations', 0, 'id'), 'entry 0 of annotations has no integer id'),
        (broken('categories', 1, name=' '), 'category 6 has no name'),
        (without('categories', 1, 'name'), 'category 6 has no name'),
        (broken('categories', 1, name='cat'), "two categories have the name 'cat'"),
        (broken('annotations', 0, image_id=5), 'annotation 11: image_id 5 is not in images'),
        (broken('annotations', 0, category_id=5), 'annotation 11: category_id 5 is not in categories'),
        (broken('annotations', 0, bbox=[0, 0, -3, 3]), r'annotation 11: bbox \[0, 0, -3, 3\] has a neg'),
        (broken('annotations', 0, bbox=[0, 0, 3]), 'must be four numbers'),
        (broken('annotations', 0, bbox=[0, math.nan, 3, 3]), 'not a finite number'),
        (without('annotations', 0, 'bbox'), 'must be four numbers, got None'),
        (without('images', 0, 'width'), 'image 1 has invalid width and height'),
        (broken('annotations', 0, segmentation=[[1, 2, 3, 4]]), 'a polygon needs at least three points'),
        (broken('annotations', 0, segmentation='abc'), 'must be polygons or run lengths'),
        (broken('annotations', 0, segmentation=[[1, 2, 3, 4, math.nan, 6]]), 'not a finite number'),
        (
            broken('annotations', 0, segmentation={'size': [80, 100], 'counts': 5}),
            'must be polygons or run lengths',
        ),
        (
            broken('annotations', 0, segmentation={'size': [9, 9], 'counts': [81]}),
            r'have size \(9, 9\), expected',
        ),
        (broken('annotations', 0, area='12'), "invalid area '12'"),
        (broken('annotations', 0, area=math.nan), 'invalid area nan'),
        (broken('annotations', 0, iscrowd='no'), "or iscrowd 'no'"),
        (broken('annotations', 0, image_id=[1]), r'image_id \[1\] is not in images'),
        (broken('images', 0, width=math.inf), 'image 1 has invalid width and height'),
        (broken('annotations', 0, bbox=[60, 40, 90, 70]), 'COCO boxes must be x, y, width, height'),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else '',
)
def test_refusals(data, message):
    with pytest.raises(InputError, match=message) as caught:
        check_coco(data, 'instances.json')
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('box', 'kept'),
    [
        ([5, 5, 0, 10], None),
        ([120, 5, 10, 10], None),
        ([-30, 5, 10, 10], None),
        ([95, 75, 30, 30], [95, 75, 5, 5]),
        ([-5, -3, 30, 30], [0, 0, 25, 27]),
        ([0, 0, 100.5, 80], [0, 0, 100.5, 80]),
        ([-0.5, 0, 20, 20], [-0.5, 0, 20, 20]),
    ],
    ids=['empty', 'outside', 'left of it', 'cut', 'cut at the left', 'rounded', 'rounded at the left'],
)
def test_boxes_that_are_mended(box, kept):
    data = copy.deepcopy(GOOD)
    far = [{'id': 20 + n, 'image_id': 1, 'category_id': 0, 'bbox': [9, 9, 4, 4]} for n in range(30)]
    data['annotations'] = [{'id': 7, 'image_id': 1, 'category_id': 0, 'bbox': box}, *far]
    found = check_coco(data)['annotations']
    assert [one['bbox'] for one in found if one['bbox'] != [9, 9, 4, 4]] == ([] if kept is None else [kept])


def test_files(tmp_path):
    path = tmp_path / 'instances.json'
    path.write_text(json.dumps(GOOD))
    assert len(read_coco(path)['images']) == 2
    with pytest.raises(InputError, match=r'folder .*images does not exist'):
        read_coco(path, tmp_path / 'images')
    (tmp_path / 'sub').mkdir()
    (tmp_path / 'a.jpg').touch()
    with pytest.raises(InputError, match=r'1 of 2 .*: sub/b\.jpg'):
        read_coco(path, tmp_path)
    (tmp_path / 'sub' / 'b.jpg').touch()
    assert len(read_coco(path, tmp_path)['annotations']) == 2
    path.write_text('{')
    with pytest.raises(InputError, match='is not valid JSON'):
        read_coco(path)
    with pytest.raises(InputError, match=r'none\.json does not exist'):
        read_coco(tmp_path / 'none.json')


@pytest.mark.parametrize('name', ['../secret.jpg', '/etc/passwd'])
def test_images_stay_in_their_folder(tmp_path, name):
    with pytest.raises(InputError, match='outside'):
        find_images([{'id': 1, 'file_name': name}], tmp_path)


def test_names_of_lvis():
    image = {'id': 4, 'coco_url': 'http://images.cocodataset.org/train2017/000000000004.jpg'}
    assert file_name(image) == 'train2017/000000000004.jpg'
    with pytest.raises(InputError, match='image 4 has neither a file_name'):
        file_name({'id': 4})


IDS = st.one_of(st.integers(-2, 4), st.none(), st.text(max_size=2), st.floats(), st.booleans())
BOXES = st.one_of(
    st.lists(st.one_of(st.integers(-20, 120), st.floats()), max_size=5), st.none(), st.text(max_size=4)
)
ENTRIES = st.fixed_dictionaries(
    {'id': IDS, 'image_id': IDS, 'category_id': IDS, 'bbox': BOXES},
    optional={
        'area': st.one_of(st.floats(), st.none(), st.text(max_size=2)),
        'iscrowd': st.one_of(st.integers(-1, 2), st.none(), st.text(max_size=2)),
        'segmentation': st.one_of(st.none(), st.lists(st.lists(st.integers(0, 90), max_size=8), max_size=2)),
    },
)


def tried(call):
    """The result, or the error message of one line."""
    try:
        return call()
    except InputError as error:
        return str(error)


@settings(deadline=None, max_examples=80)
@given(st.lists(ENTRIES, max_size=4))
def test_any_entries_are_kept_counted_or_refused(annotations):
    """Rows in = rows out + rows that a warning counts."""
    data = {**copy.deepcopy(GOOD), 'annotations': annotations}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        found = tried(lambda: check_coco(data, 'a.json')['annotations'])
    if isinstance(found, str):
        assert '\n' not in found
        return
    dropped = [str(one.message) for one in caught if 'were dropped' in str(one.message)]
    count = int(dropped[0].split()[1]) if dropped else 0
    assert len(found) + count == len(annotations)
    assert [one['id'] for one in found] == list(range(1, len(found) + 1))


@settings(deadline=None, max_examples=60)
@given(
    st.recursive(
        st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=3)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(st.sampled_from(['images', 'annotations', 'categories', 'id', 'name']), inner),
        ),
        max_leaves=12,
    )
)
def test_any_json_is_refused(data):
    with pytest.raises(InputError):
        check_coco(data)
