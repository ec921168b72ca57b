"""Flickr30k Entities as it is released: sentences with marked phrases, and boxes of entities.

A line of ``Sentences/ID.txt`` is a caption: ``[/EN#12/people A girl] holds [/EN#13/other a ball] .``
``Annotations/ID.xml`` has the boxes of each entity, in pixels, as published evaluations read them.

Plummer et al., ICCV 2015 (arXiv 1505.04870).

Source: BryanPlummer/flickr30k_entities ``flickr30k_entities_utils.py``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipdense.data.image_lists import NamedFiles, read_split
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.vocab.class_files import read_text

from .grounding import CaptionRecord, GroundingDetection, check_grounding
from .transforms import PackDetection
from .voc import corners, parse_xml

IMAGE_FOLDERS = ('flickr30k-images', 'flickr30k_images', 'images')
_MARK = re.compile(r'\[/EN#(\d+)((?:/[^\s/\[\]]+)+)')
_HIDDEN = '0'  # the entity of phrases without a place in the image (notvisual)


class Phrase(NamedTuple):
    """A marked phrase of a caption."""

    span: tuple[int, int]  # characters [start, end) of the caption
    entity: str
    kinds: tuple[str, ...]


def read_sentence(line: str, where: str) -> tuple[str, list[Phrase]]:
    """A line -> the caption without marks, and its phrases.

    Args:
        line: of a file in ``Sentences``.
        where: file and line, for messages.

    Raises:
        InputError: brackets that are no marks, are not closed or are nested, or a mark without words.
    """
    words: list[str] = []
    phrases: list[Phrase] = []
    opened: tuple[int, str, tuple[str, ...]] | None = None  # first word, entity, kinds
    for token in line.split():
        if token.startswith('['):
            match = _MARK.fullmatch(token)
            if opened is not None:
                raise InputError(f'{where}: {token!r:.40} begins inside of another phrase')
            if match is None:
                raise InputError(f'{where}: {token!r:.40} is not a mark such as [/EN#12/people')
            opened = len(words), match[1], tuple(match[2][1:].split('/'))
            continue
        closes = opened is not None and token.endswith(']')
        word = token[:-1] if closes else token
        if '[' in word or ']' in word:
            raise InputError(f'{where}: a bracket in {token!r:.40} belongs to no phrase')
        words += [word] if word else []
        if closes and opened is not None:
            first, entity, kinds = opened
            if first == len(words):
                raise InputError(f'{where}: the phrase of entity {entity} has no words')
            start = len(' '.join([*words[:first], '']))
            phrases.append(Phrase((start, len(' '.join(words))), entity, kinds))
            opened = None
    if opened is not None:
        raise InputError(f'{where}: the phrase of entity {opened[1]} is not closed by ]')
    return ' '.join(words), phrases


def read_entities(path: Path) -> tuple[tuple[int, int], dict[str, list[list[float]]]]:
    """(H, W) of an image, and the boxes x, y, width, height of each entity that has some.

    Raises:
        InputError: not such a file; an object without a name, or without boxes, ``nobndbox`` and ``scene``.
    """
    tree = parse_xml(path)
    try:
        size = int(tree.findtext('size/height') or ''), int(tree.findtext('size/width') or '')
    except ValueError as error:
        raise InputError(f'{path} has no size/height and size/width in whole numbers') from error
    boxes: dict[str, list[list[float]]] = defaultdict(list)
    for number, item in enumerate(tree.iter('object'), 1):
        names = [(one.text or '').strip() for one in item.findall('name')]
        where = f'{path}, object {number}'
        if not names or not all(names):
            raise InputError(f'{where} has no name, which is its entity')
        if item.find('bndbox') is None:
            if item.find('nobndbox') is None and item.find('scene') is None:
                raise InputError(f'{where} ({names[0]}) has neither a bndbox nor nobndbox or scene')
            continue
        x1, y1, x2, y2 = corners(item, f'{where} ({names[0]})')
        for name in names:
            boxes[name].append([x1, y1, x2 - x1, y2 - y1])
    return size, dict(boxes)


def read_flickr(root: str | Path, split: str) -> tuple[dict[str, Any], list[CaptionRecord]]:
    """Captions with boxes of one split, as ``read_grounding`` has them.

    Phrases without a box, of ``notvisual`` (entity 0) or of the whole scene, have no part in it.  Categories
    are the kinds of phrases, such as 'people'; an annotation of several kinds has ``kinds``.

    Args:
        root: folder with ``Annotations``, ``Sentences`` and ``train.txt``, ``val.txt``, ``test.txt``.
        split: 'train', 'val' or 'test'.

    Raises:
        InputError: missing files, files that cannot be read, or as ``read_grounding``.
    """
    root = Path(root)
    names = read_split(root, '.', split)
    listed = f'named in {split}.txt'
    described = NamedFiles(root / 'Annotations', {'.xml'}).find_all(names, listed)
    texts = NamedFiles(root / 'Sentences', {'.txt'}).find_all(names, listed)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    kinds: dict[str, int] = {}
    for name, annotation, sentences in zip(names, described, texts, strict=True):
        (height, width), entities = read_entities(annotation)
        about = {'file_name': f'{name}.jpg', 'height': height, 'width': width}
        for text, phrases in _captions(sentences):
            images.append({**about, 'id': len(images) + 1, 'caption': text})
            for phrase in phrases:
                own = [kinds.setdefault(kind, len(kinds) + 1) for kind in phrase.kinds]
                for box in entities.get(phrase.entity, ()) if phrase.entity != _HIDDEN else ():
                    boxes.append(_annotation(len(boxes) + 1, images[-1]['id'], box, phrase, own))
    used = {kind for one in boxes for kind in one['kinds']}
    categories = [{'id': number, 'name': kind} for kind, number in kinds.items() if number in used]
    content = {
        'images': images,
        'annotations': boxes,
        'categories': categories or [{'id': 1, 'name': 'object'}],
    }
    return check_grounding(content, f'{root} ({split})')


@DATASETS.register_module()
class FlickrEntities(GroundingDetection):
    """Flickr30k Entities as captions with boxes; a sample for each caption, as ``GroundingDetection`` has it.

    Args:
        root: folder with ``Annotations``, ``Sentences`` and ``train.txt``, ``val.txt``, ``test.txt``.
        split: 'train', 'val' or 'test'.
        images: folder of the images; by default ``flickr30k-images``, ``flickr30k_images`` or ``images`` in
            ``root``.
        transforms, pack, training, others, share, seed: as in ``GroundingDetection``.

    Raises:
        InputError: files that cannot be used, or a number out of range.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        images: str | Path | None = None,
        transforms: Sequence[Any] = (),
        pack: PackDetection | dict | None = None,
        training: bool = False,
        others: int = 0,
        share: float = 0.6,
        seed: int = 0,
    ) -> None:
        self._set_others(others, share)
        folder = _images(Path(root)) if images is None else Path(images)
        self._set_texts(*read_flickr(root, split), folder, f'{root} ({split})' if training else None)
        self._finish(transforms, None, pack, training, False, seed)


def _captions(path: Path) -> Iterator[tuple[str, list[Phrase]]]:
    found = False
    for number, line in enumerate(read_text(path).split('\n'), 1):
        if line.strip():
            found = True
            yield read_sentence(line, f'{path}, line {number}')
    if not found:
        raise InputError(f'{path} has no sentences')


def _annotation(
    number: int, image: int, box: Sequence[float], phrase: Phrase, kinds: Sequence[int]
) -> dict[str, Any]:
    return {
        'id': number,
        'image_id': image,
        'category_id': kinds[0],
        'kinds': list(kinds),
        'bbox': list(box),
        'area': box[2] * box[3],
        'iscrowd': 0,
        'tokens_positive': [list(phrase.span)],
    }


def _images(root: Path) -> Path:
    for name in IMAGE_FOLDERS:
        if (root / name).is_dir():
            return root / name
    raise InputError(f'{root} has no folder of images ({", ".join(IMAGE_FOLDERS)}): give images=')
