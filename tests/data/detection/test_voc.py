"""Annotations that something damaged are read, or refused with the name of the file."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipdense.data.detection.voc import read_voc
from clipdense.utils.errors import InputError

GOOD = (
    '<annotation><filename>a.jpg</filename><size><width>9</width><height>8</height></size><object><name>cat</name>'
    '<difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>'
    '</annotation>'
)
PARTS = st.sampled_from(
    ['', '<', '&c;', '-1', '9.5', 'nan', '1e999', '</object>', '<!DOCTYPE a>', '\x00', 'é']
)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, len(GOOD)), st.integers(0, 12), PARTS)
def test_damaged_annotations(start, length, part):
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for folder in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
            (root / folder).mkdir(parents=True)
        Image.new('RGB', (9, 8)).save(root / 'JPEGImages/a.jpg')
        (root / 'ImageSets/Main/val.txt').write_text('a')
        (root / 'Annotations/a.xml').write_text(GOOD[:start] + part + GOOD[start + length :], 'utf-8')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            found = tried(root)
    if isinstance(found, str):
        assert '\n' not in found
        assert 'val' in found
    else:
        assert len(found['images']) == len(found['annotations']) == 1


def tried(root):
    """The annotations, or the error message."""
    try:
        return read_voc(root, 'val')
    except InputError as error:
        return str(error)
