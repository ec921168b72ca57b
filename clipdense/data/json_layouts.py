"""What a JSON file has: captions, boxes, phrases, questions, or labels of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from clipdense.utils.errors import InputError
from clipdense.utils.json_files import read_json

from .dataset_parts import DataLayout, DatasetPart

_LARGEST_JSON = 4_000_000_000


def json_layouts(path: Path) -> Iterator[DataLayout]:
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
        yield labeled_layout(path, "CoOp's split file")
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


def labeled_layout(path: Path, layout: str) -> DataLayout:
    def part(**split: str) -> DatasetPart:
        arguments = {'data': str(path), **split}
        return DatasetPart('clipdense.data.classification.few_shot', 'FewShotImages', arguments)

    train = part()
    parts = {'train': train, **{split: part(split=split) for split in ('val', 'test', 'all')}}
    return DataLayout(str(path), 'images', layout, train, parts['test'], parts)
