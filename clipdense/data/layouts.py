"""What data a path has (captions, masks, boxes, labeled images), and the dataset that training uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clipdense.utils.errors import InputError
from clipdense.utils.files import names_shards

from .dataset_parts import DataLayout, DatasetPart, Kind
from .json_layouts import json_layouts, labeled_layout
from .roboflow import exports_in, splits_of

_TABLES = ('.csv', '.tsv', '.txt', '.jsonl', '.ndjson', '.parquet')
_IMAGE_COLUMNS = ('filepath', 'image', 'image_path', 'file_name', 'filename', 'path', 'img', 'file')
_CAPTION_COLUMNS = ('title', 'caption', 'captions', 'text', 'description', 'sentence')
_IMAGE_FOLDERS = ('images', 'imgs', 'JPEGImages', 'image')
_MASK_FOLDERS = ('masks', 'labels', 'annotations', 'SegmentationClass', 'mask', 'gt')
_SUFFIXES = ('', '_L', '_mask', '_labelIds', '_labelTrainIds', '_gt', '_label', '_seg')
_PROBED = 16
SHARDS = 'webdataset shards'
ROBOFLOW = "Roboflow's COCO layout"


def recognize(path: str | Path, kind: Kind | None = None, several: bool = False) -> DataLayout:
    """The layout of a file or folder.

    Args:
        path: a table of captions, tar shards (also as ``utils.files.names_shards``), JSON in COCO's layout, a
            folder in the layout of PASCAL VOC, ADE20K, CamVid, Flickr30k Entities or of Roboflow's COCO
            exports, a folder of such exports, folders of images and masks, or class folders.
        kind: what it must have; by default masks come before boxes.
        several: whether it may be a folder of data sets.

    Raises:
        InputError: there is nothing, none of these layouts, or several data sets.
    """
    text = str(path)
    if not text.strip():
        raise InputError('the path of the data is empty')
    if names_shards(text):
        return _shards(text)
    place = Path(path).expanduser()
    if not place.exists():
        raise InputError(f'{path} does not exist')
    found = list(_file(place) if place.is_file() else _folder(place))
    chosen = [one for one in found if kind in (None, one.kind)]
    if chosen and chosen[0].members and not several:
        names = list(chosen[0].members)
        raise InputError(
            f'{path} is a folder of {len(names)} data sets: give one of them, such as {names[0]}'
        )
    if chosen:
        return chosen[0]
    if found:
        raise InputError(
            f'{path} has {" and ".join(one.kind for one in found)}, not {kind} ({found[0].layout})'
        )
    raise InputError(
        f'{path} has none of the layouts of training data: a table of captions (.csv, .tsv, .jsonl, '
        ".parquet), tar shards, COCO JSON, the folder of PASCAL VOC (JPEGImages), Roboflow's COCO export "
        '(train/_annotations.coco.json), images/ and masks/ with equal names, or a subfolder of images for '
        'each class'
    )


def image_sizes(files: Sequence[Path]) -> np.ndarray:
    """(n, 2) width and height of some of the images, as displayed; those that cannot be read are left out."""
    from clipdense.utils.image_io import read_image

    sizes = []
    for file in files[:: max(1, len(files) // _PROBED)][:_PROBED]:
        try:
            sizes.append(read_image(file).size)
        except InputError:
            continue
    return np.array(sizes, int).reshape(-1, 2)


def _file(path: Path) -> Iterator[DataLayout]:
    suffix = path.suffix.lower()
    if suffix == '.tar':
        yield _shards(str(path))
    elif suffix in _TABLES:
        yield _table(path)
    elif suffix == '.json':
        yield from json_layouts(path)


def _table(path: Path) -> DataLayout:
    from clipdense.data.tables import column_names

    columns = column_names(path)
    lower = {name.strip().lower(): name for name in reversed(columns)}
    keys = [
        next((lower[one] for one in wanted if one in lower), None)
        for wanted in (_IMAGE_COLUMNS, _CAPTION_COLUMNS)
    ]
    if None in keys:
        raise InputError(
            f'{path}: no column of images and captions among {", ".join(map(repr, columns[:10]))}; the first '
            "line must name them, such as 'filepath' and 'title'"
        )
    arguments = {'path': str(path), 'image_key': keys[0], 'caption_key': keys[1]}
    return DataLayout(
        str(path),
        'captions',
        'a table',
        DatasetPart('clipdense.data.image_text.datasets', 'CsvPairs', arguments),
    )


def _shards(text: str) -> DataLayout:
    part = DatasetPart('clipdense.data.image_text.shards', 'ImageTextShards', {'urls': text})
    return DataLayout(text, 'captions', SHARDS, part)


def _folder(path: Path) -> Iterator[DataLayout]:
    if any(path.glob('*.tar')):
        yield _shards(str(path))
    if (path / 'JPEGImages').is_dir():
        yield from _voc(path)
        return
    if (path / 'Sentences').is_dir() and (path / 'Annotations').is_dir():
        yield _flickr(path)
        return
    if splits_of(path):
        yield _export(path)
        return
    pairs = list(_pairs(path))
    yield from pairs
    if not pairs and (exports := _exports(path)):
        yield exports
    elif nested := sorted({one.parent for one in path.glob('*/*.tar')}):
        first = next((one for one in nested if 'train' in one.name), nested[0])
        raise InputError(f'{path} has folders of shards: give one of them, such as {first}')
    elif not pairs and any(one.is_dir() and not one.name.startswith('.') for one in path.iterdir()):
        yield labeled_layout(path, 'class folders')


def _flickr(path: Path) -> DataLayout:
    splits = [split for split in ('train', 'val', 'test') if (path / f'{split}.txt').is_file()]
    if not splits:
        raise InputError(f'{path} has Sentences but no list of images: write train.txt, an image a line')
    parts = {
        split: DatasetPart(
            'clipdense.data.detection.flickr', 'FlickrEntities', {'root': str(path), 'split': split}
        )
        for split in splits
    }
    first, *others = parts.values()
    return DataLayout(str(path), 'phrases', 'Flickr30k Entities', first, others[0] if others else None, parts)


def _exports(path: Path) -> DataLayout | None:
    """A folder of Roboflow's exports, such as ODinW."""
    members = {str(one.relative_to(path)): _export(one) for one in exports_in(path)}
    if not members:
        return None
    first = next(iter(members.values()))
    layout = f'{len(members)} data sets of {ROBOFLOW}'
    return replace(first, path=str(path), layout=layout, members=members)


def _export(path: Path) -> DataLayout:
    splits = splits_of(path)
    parts = {
        split: DatasetPart(
            'clipdense.data.detection.roboflow', 'RoboflowDetection', {'root': str(path), 'split': split}
        )
        for split in splits
    }
    first = next(iter(parts.values()))
    val = parts.get('val', parts.get('test'))
    return DataLayout(str(path), 'boxes', ROBOFLOW, first, None if val == first else val, parts)


def _voc(path: Path) -> Iterator[DataLayout]:
    kinds: tuple[tuple[Kind, str, str, str, str], ...] = (
        (
            'masks',
            'SegmentationClass',
            'Segmentation',
            'clipdense.data.segmentation.datasets',
            'VOCSegmentation',
        ),
        ('boxes', 'Annotations', 'Main', 'clipdense.data.detection.datasets', 'VOCDetection'),
    )
    for kind, labels, lists, module, name in kinds:
        if not (path / labels).is_dir():
            continue
        splits = [one.stem for one in sorted((path / 'ImageSets' / lists).glob('*.txt'))]
        order = [one for one in dict.fromkeys(('train', 'trainval', 'val', 'test', *splits)) if one in splits]
        if not order:
            raise InputError(
                f'{path} has {labels} but no list of images: write ImageSets/{lists}/train.txt, a name a line'
            )
        parts = [DatasetPart(module, name, {'root': str(path), 'split': split}) for split in order]
        others = [part for part in parts[1:] if part.arguments['split'] in ('val', 'test')]
        val = others[0] if others else None
        yield DataLayout(str(path), kind, 'PASCAL VOC', parts[0], val, dict(zip(order, parts, strict=True)))


def _pairs(path: Path) -> Iterator[DataLayout]:
    """ADE20K, CamVid as SegNet's authors have it, or any two folders with equal names."""
    module, name = 'clipdense.data.segmentation.pairs', 'SegmentationPairs'

    def part(images: str, masks: str, **more: Any) -> DatasetPart:
        return DatasetPart(module, name, {'root': str(path), 'images': images, 'masks': masks, **more})

    if (path / 'images/training').is_dir() and (path / 'annotations/training').is_dir():
        more: dict[str, Any] = {'zero_is_unlabeled': True}
        if not (path / 'classes.txt').is_file():
            more['vocabulary'] = 'ade20k'
        validated = (path / 'images/validation').is_dir()
        train = part('images/training', 'annotations/training', **more)
        val = part('images/validation', 'annotations/validation', **more) if validated else None
        yield DataLayout(str(path), 'masks', 'ADE20K', train, val)
        return
    if (path / 'train').is_dir() and (path / 'trainannot').is_dir():
        more = {} if (path / 'classes.txt').is_file() else {'vocabulary': 'camvid'}
        more['ignore_index'] = 11  # "void" of this copy
        there = [one for one in ('train', 'val', 'test') if (path / one).is_dir()]
        found = {one: part(one, f'{one}annot', **more) for one in there if (path / f'{one}annot').is_dir()}
        yield DataLayout(str(path), 'masks', 'CamVid (SegNet)', found['train'], found.get('val'), found)
        return
    folders = [
        next((one for one in names if (path / one).is_dir()), None)
        for names in (_IMAGE_FOLDERS, _MASK_FOLDERS)
    ]
    if folders[0] and folders[1]:
        suffix = _mask_suffix(path / folders[0], path / folders[1])
        more = {'mask_suffix': suffix} if suffix else {}
        parts = {one: part(folders[0], folders[1], part=one, **more) for one in ('train', 'val', 'all')}
        yield DataLayout(
            str(path), 'masks', 'folders of images and masks', parts['train'], parts['val'], parts
        )


def _mask_suffix(images: Path, masks: Path) -> str:
    stem = next((re.sub(r'\.\w+$', '', one.name) for one in sorted(images.rglob('*')) if one.is_file()), '')
    there = {one.stem for one in masks.rglob('*') if one.is_file()}
    return next((suffix for suffix in _SUFFIXES if stem + suffix in there), '')
