"""Tables from the values in published label files to class indices.

A table has an entry for every value that a file may contain; ``UNKNOWN`` marks invalid values.
"""

from __future__ import annotations

import numpy as np

from clipdense.vocab.ade20k_full import ADE20K_FULL_IDS

UNKNOWN = -1
IGNORED = 255

# COCO numbers 91 things and 91 stuff classes from 1; the label maps of COCO-Stuff hold the number minus 1,
# and these eleven never occur.  Source: nightrome/cocostuff, labels.md.
_COCO_ABSENT = {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}
_COCO_LAST_THING = 90
_COCO_VALUES = 182

# labelIds of the 19 evaluated classes, in the order of their trainIds.
# Source: mcordts/cityscapesScripts, helpers/labels.py.
_CITYSCAPES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_CITYSCAPES_VALUES = 34

_CAMVID_CLASSES = 11

# The 59 frequent classes among PASCAL-Context's 459, in the order of their names.
# Source: Mottaghi et al. 2014; mmsegmentation, tools/dataset_converters/pascal_context.py.
_CONTEXT = (
    *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144),
    *(158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354),
    *(355, 360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
)
_CONTEXT_VALUES = 460


def coco_stuff() -> np.ndarray:
    """(256,) COCO-Stuff's label maps -> 171 classes, things first; 255 is unlabeled."""
    table = np.full(256, UNKNOWN, np.int64)
    present = [value for value in range(_COCO_VALUES) if value not in _COCO_ABSENT]
    table[present] = range(len(present))
    table[IGNORED] = IGNORED
    return table


def coco_object() -> np.ndarray:
    """(256,) COCO-Stuff's label maps -> background 0 and 80 things; stuff and unlabeled are background.

    Source: NVlabs/GroupViT, convert_dataset/convert_coco_object.py.
    """
    table = coco_stuff()
    things = table[: _COCO_LAST_THING + 1]
    things[things != UNKNOWN] += 1
    stuff = table[_COCO_LAST_THING + 1 :]
    stuff[stuff != UNKNOWN] = 0
    return table


def camvid() -> np.ndarray:
    """(256,) the masks of SegNet's tutorial -> 11 classes in the same order; its 12th value is unlabeled."""
    table = np.full(256, UNKNOWN, np.int64)
    table[:_CAMVID_CLASSES] = range(_CAMVID_CLASSES)
    table[_CAMVID_CLASSES] = IGNORED
    return table


def cityscapes() -> np.ndarray:
    """(256,) labelIds -> 19 trainIds; all others become 255, ignored."""
    table = np.full(256, UNKNOWN, np.int64)
    table[:_CITYSCAPES_VALUES] = IGNORED
    table[IGNORED] = IGNORED  # license plates, -1 in the scripts
    table[list(_CITYSCAPES)] = range(len(_CITYSCAPES))
    return table


def context() -> np.ndarray:
    """(460,) the 459 classes of PASCAL-Context -> background 0 and 59 classes."""
    table = np.zeros(_CONTEXT_VALUES, np.int64)
    table[list(_CONTEXT)] = range(1, len(_CONTEXT) + 1)
    return table


def ade20k_full() -> np.ndarray:
    """(65536,) ADE20K's object numbers -> 847 classes; others become 65535."""
    table = np.full(1 << 16, 65535, np.int64)
    table[list(ADE20K_FULL_IDS)] = range(len(ADE20K_FULL_IDS))
    return table


def relabel(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Map every value through the table.

    Raises:
        ValueError: values that are not in the table; which, and how many pixels have them.
    """
    known = (values >= 0) & (values < len(table))
    labels = table[np.where(known, values, 0)]
    unknown = ~known | (labels == UNKNOWN)
    if unknown.any():
        found = zip(*np.unique(values[unknown], return_counts=True), strict=True)
        listed = ', '.join(f'{value} ({count} pixels)' for value, count in list(found)[:10])
        raise ValueError(f'labels that this dataset does not define: {listed}')
    return labels
