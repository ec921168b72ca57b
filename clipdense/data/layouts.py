"""What data a path has (captions, masks, boxes, labeled images), and the dataset that training uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.json_files import read_json

from .roboflow import exports_in, splits_of

Kind = Literal['captions', 'masks', 'boxes', 'phrases', 'phrase masks', 'images', 'questions']
KINDS: tuple[Kind, ...] = ('captions', 'masks', 'boxes', 'phrases', 'phrase masks', 'images', 'questions')
_SHARD_SUFFIXES = ('.tar', '.tar.gz', '.tgz')
_TABLES = ('.csv', '.tsv', '.txt', '.jsonl', '.ndjson', '.parquet')
_IMAGE_COLUMNS = ('filepath', 'image', 'image_path', 'file_name', 'filename', 'path', 'img', 'file')
_CAPTION_COLUMNS = ('title', 'caption', 'captions', 'text', 'description', 'sentence')
_IMAGE_FOLDERS = ('images', 'imgs', 'JPEGImages', 'image')
_MASK_FOLDERS = ('masks', 'labels', 'annotations', 'SegmentationClass', 'mask', 'gt')
_SUFFIXES = ('', '_L', '_mask', '_labelIds', '_labelTrainIds', '_gt', '_label', '_seg')
_LARGEST_JSON = 4_000_000_000
_PROBED = 16
SHARDS = 'webdataset shards'
ROBOFLOW = "Roboflow's COCO layout"


@dataclass(frozen=True)
class DatasetPart:
    """A dataset as a config names it.

    Args:
        module, name: of its class.
        arguments: plain values.
    """

    module: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def import_line(self) -> str:
        """``from module import name``."""
        return f'from {self.module} import {self.name}'

    def text(self, **more: str) -> str:
        """``dict(type=Name, root='...')``; ``more`` are entries whose values are code."""
        given = {key: repr(value) for key, value in self.arguments.items()} | more
        return (
            f'dict({", ".join([f"type={self.name}", *(f"{key}={value}" for key, value in given.items())])})'
        )

    def build(self, **more: Any) -> Any:
        """The dataset."""
        return getattr(import_module(self.module), self.name)(**{**self.arguments, **more})


@dataclass(frozen=True)
class DataLayout:
    """What a path has.

    Args:
        path: as it was given.
        kind: what is learned from it.
        layout: for messages.
        train: what training reads.
        val: other samples for validation; None if there are none.
        named: all parts by name, if there are others than these two.
        members: of a folder of data sets, each of them by name; the other fields are those of the first.
    """

    path: str
    kind: Kind
    layout: str
    train: DatasetPart
    val: DatasetPart | None = None
    named: Mapping[str, DatasetPart] = field(default_factory=dict)
    members: Mapping[str, DataLayout] = field(default_factory=dict)

    @property
    def parts(self) -> Mapping[str, DatasetPart]:
        """All parts by name; 'all' of data that has one."""
        if self.named:
            return self.named
        return {'all': self.train} if self.val is None else {'train': self.train, 'val': self.val}

    def part(self, name: str | None = None) -> tuple[str, DatasetPart]:
        """Name and dataset of a part; by default of what validates a training, or all there is.

        Raises:
            InputError: there is no such part.
        """
        if name is None:
            chosen = self.val or self.train
            name = next(key for key, part in self.parts.items() if part == chosen)
        if name not in self.parts:
            raise InputError(
                f'{self.path} ({self.layout}) has no part {name!r}; it has {", ".join(self.parts)}.'
                f'{nearest(name, self.parts)}'
            )
        return name, self.parts[name]


def recognize(path: str | Path, kind: Kind | None = None, several: bool = False) -> DataLayout:
    """The layout of a file or folder.

    Args:
        path: a table of captions, tar shards (also as ``names_shards``), JSON in COCO's layout, a
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


def names_shards(path: str) -> bool:
    """Whether this is a pattern with braces or wildcards, or a URL, of shards, and no file itself."""
    several = bool(set('{*?[') & set(path)) or '://' in path
    return several and path.endswith(_SHARD_SUFFIXES) and not Path(path).expanduser().exists()


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
        yield from _json(path)


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


def _json(path: Path) -> Iterator[DataLayout]:
    from clipdense.data.labeled import LabeledData

    content = read_json(path, _LARGEST_JSON)
    annotations = content.get('annotations') if isinstance(content, dict) else None
    first = annotations[0] if isinstance(annotations, list) and annotations else {}
    if is_phrasecut(content):
        yield _phrasecut(path, content)
    elif isinstance(first, dict) and 'caption' in first:
        arguments = {'annotation_file': str(path), 'image_folder': str(_images_of(path, content))}
        part = DatasetPart('clipdense.data.image_text.datasets', 'CocoCaptions', arguments)
        yield DataLayout(str(path), 'captions', 'COCO captions', part)
    elif questions := _questions(path, content):
        yield questions
    elif LabeledData(path).kind == 'images':
        yield _labeled(path, "CoOp's split file")
    else:
        if isinstance(first, dict) and 'tokens_positive' in first:
            yield _coco(path, content, 'phrases')
            if _names_only_objects(content):
                return
        yield _coco(path, content)


def _names_only_objects(content: Any) -> bool:
    """Whether the categories are the one without a meaning that captions with boxes have."""
    categories = content.get('categories') if isinstance(content, dict) else None
    return isinstance(categories, list) and [
        one.get('name') if isinstance(one, dict) else None for one in categories
    ] in ([], ['object'])


def _questions(path: Path, content: Any) -> DataLayout | None:
    """A list of questions, or the questions of VQA with their annotations in a file next to them."""
    module = 'clipdense.data.image_text.question_files'
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and 'question' in first:
        name = first.get('image')
        known = isinstance(name, str) and next((one for one in path.parents if (one / name).is_file()), None)
        arguments = {'files': str(path), 'image_folder': str(known or path.parent)}
        part = DatasetPart(module, 'QuestionList', arguments)
        return DataLayout(str(path), 'questions', 'a list of questions', part)
    if not isinstance(content, dict) or not isinstance(content.get('questions'), list):
        return None
    name = path.name.replace('questions', 'annotations')
    files = [path.with_name(one) for one in (name.replace('OpenEnded_', ''), name) if one != path.name]
    found = next((one for one in files if one.is_file()), None)
    if found is None:
        where = files[0] if files else 'in a file with the same name, of "questions" and "annotations"'
        raise InputError(f'{path} has questions without answers: put their annotations next to them, {where}')
    subset = str(content.get('data_subtype', ''))
    folder = next((one for one in path.parents if (one / subset).is_dir()), path.parent)
    arguments = {'questions': str(path), 'annotations': str(found), 'image_folder': str(folder)}
    return DataLayout(str(path), 'questions', 'VQA', DatasetPart(module, 'VqaQuestions', arguments))


def _coco(path: Path, content: Any, kind: Literal['boxes', 'phrases'] = 'boxes') -> DataLayout:
    def part(file: Path, images: Path) -> DatasetPart:
        arguments = {'annotations': str(file), 'images': str(images)}
        if kind == 'phrases':
            return DatasetPart('clipdense.data.detection.grounding', 'GroundingDetection', arguments)
        return DatasetPart('clipdense.data.detection.datasets', 'CocoDetection', arguments)

    images = _images_of(path, content)
    other = path.with_name(path.name.replace('train', 'val'))
    val = None
    if other != path and other.is_file():
        val = part(other, _images_of(other, read_json(other, _LARGEST_JSON)))
    layout = 'COCO' if kind == 'boxes' else 'captions with boxes'
    return DataLayout(str(path), kind, layout, part(path, images), val)


def is_phrasecut(content: Any) -> bool:
    """Whether the content of a JSON file is in PhraseCut's layout, see ``data.detection.phrasecut``."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, Mapping) and 'phrase' in first and 'Polygons' in first


def _phrasecut(path: Path, content: Any) -> DataLayout:
    def part(file: Path, images: Path) -> DatasetPart:
        arguments = {'annotations': str(file), 'images': str(images)}
        return DatasetPart('clipdense.data.detection.phrasecut', 'PhraseCut', arguments)

    images = _images_of(path, {'images': [{'file_name': f'{content[0].get("image_id")}.jpg'}]})
    return DataLayout(str(path), 'phrase masks', 'PhraseCut', part(path, images))


def _images_of(path: Path, content: Any) -> Path:
    """The folder of the images of a JSON file: beside it, or in a folder that is often there."""
    images = content.get('images') if isinstance(content, dict) else None
    first = (
        images[0].get('file_name')
        if isinstance(images, list) and images and isinstance(images[0], dict)
        else None
    )
    split = path.stem.rpartition('_')[2]
    for folder in (path.parent, path.parent.parent):
        for name in ('', 'images', split, f'images/{split}', path.stem, 'train2017', 'val2017'):
            if isinstance(first, str) and first and (folder / name / first).is_file():
                return folder / name
    return path.parent


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
        yield _labeled(path, 'class folders')


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


def _labeled(path: Path, layout: str) -> DataLayout:
    def part(**split: str) -> DatasetPart:
        arguments = {'data': str(path), **split}
        return DatasetPart('clipdense.data.classification.few_shot', 'FewShotImages', arguments)

    train = part()
    parts = {'train': train, **{split: part(split=split) for split in ('val', 'test', 'all')}}
    return DataLayout(str(path), 'images', layout, train, parts['test'], parts)


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
