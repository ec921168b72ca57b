"""PASCAL VOC's XML boxes in COCO's layout."""

from __future__ import annotations

import math
import warnings
import xml.etree.ElementTree as Xml
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from clipdense.data.image_lists import NamedFiles, first_of, read_split, without_flags
from clipdense.utils.errors import InputError
from clipdense.utils.files import regular_file
from clipdense.utils.image_io import read_image
from clipdense.utils.wording import counted
from clipdense.vocab.names import normalize

from .coco import check_coco, find_images

_LISTS = 'ImageSets/Main'
_LARGEST_XML = 32_000_000  # bytes


def read_voc(root: str | Path, split: str) -> dict[str, Any]:
    """The boxes of one list of images.

    VOC counts pixels from 1, ends included: 1, 1, 10, 10 becomes 0, 0 and a width of 10.  Difficult objects
    are marked ``iscrowd``, and are ignored in training and evaluation; those without ``difficult`` are not.

    Args:
        root: folder with ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``.
        split: 'train', 'val', ...

    Returns:
        Checked annotations; image ids count from 1 in the order of the list, categories are sorted.

    Raises:
        InputError: a list, annotation or image is missing or cannot be read; of annotations all are named.

    Warns:
        UserWarning: something had to be assumed, such as the size of an image.
    """
    root = Path(root)
    files, listed = NamedFiles(root / 'JPEGImages'), f'named in {_LISTS}/{split}.txt'
    names = without_flags(read_split(root, _LISTS, split), files, root / _LISTS / f'{split}.txt')
    paths = files.find_all(names, listed)
    stems = [files.name_of(path) for path in paths]
    described = NamedFiles(root / 'Annotations', {'.xml'}).find_all(stems, f'with an annotation, {listed},')
    reader = _Reader(f'{root} ({split})')
    images, found = [], []
    for number, (image, annotation) in enumerate(zip(paths, described, strict=True), 1):
        size, objects = reader.read(annotation, image)
        name = image.relative_to(files.folder).as_posix()
        images.append({'id': number, 'file_name': name, **size})
        found += [{'image_id': number, **one} for one in objects]
    reader.finish()
    spelled = reader.spellings(one['name'] for one in found)
    ids = {name: number for number, name in enumerate(sorted(set(spelled.values())), 1)}
    annotations = [
        {'id': number, 'category_id': ids[spelled[one.pop('name')]], **one}
        for number, one in enumerate(found, 1)
    ]
    if not ids:
        raise InputError(f'{reader.source} has no objects in {counted(len(images), "image")}')
    data = {
        'images': images,
        'annotations': annotations,
        'categories': [{'id': number, 'name': name} for name, number in ids.items()],
    }
    checked = check_coco(data, reader.source)
    find_images(checked['images'], files.folder)
    return checked


@dataclass
class _Reader:
    """Reads annotations, and says at the end what could not be read and what was assumed.

    Args:
        source: folder and list, for messages.
    """

    source: str
    faults: list[str] = field(default_factory=list)
    assumed: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def read(self, path: Path, image: Path) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """Size and objects of an image; neither for an annotation that cannot be read."""
        try:
            tree = parse_xml(path)
            size, objects = self._size(tree, path, image), list(self._objects(tree, path))
        except InputError as error:
            self.faults.append(str(error))
            return {}, []
        other = (tree.findtext('filename') or '').strip()
        if other and other not in (image.name, image.stem):
            self.assumed[
                'annotations name another image (filename); the name of the annotation file is used'
            ].append(f'{path.name} names {other!r}')
        return size, objects

    def finish(self) -> None:
        """Report.

        Raises:
            InputError: annotations that could not be read.
        """
        if self.faults:
            count = len(self.faults)
            raise InputError(
                f'{self.source}: {count} {"annotation" if count == 1 else "annotations"} cannot be read: '
                f'{"; ".join(self.faults[:10])}{"; ..." if count > 10 else ""}'
            )
        for what, where in self.assumed.items():
            warnings.warn(f'{self.source}: {len(where)} {what}: {first_of(where[:3])}', stacklevel=4)

    def spellings(self, names: Iterator[str]) -> dict[str, str]:
        """The most frequent spelling of each class name; names are compared without case and extra spaces."""
        groups: dict[str, Counter[str]] = defaultdict(Counter)
        for name in names:
            groups[normalize(name)][name] += 1
        for group in groups.values():
            if len(group) > 1:
                kept, *others = [name for name, _ in group.most_common()]
                warnings.warn(
                    f'{self.source}: the class {kept!r} is also spelled {", ".join(map(repr, others))}; '
                    'it is read as one class',
                    stacklevel=4,
                )
        return {name: group.most_common(1)[0][0] for group in groups.values() for name in group}

    def _size(self, tree: Xml.Element, path: Path, image: Path) -> dict[str, int]:
        given = [(tree.findtext(f'size/{key}') or '').strip() for key in ('width', 'height')]
        if set(given) <= {'', '0', '0.0'}:
            self.assumed['annotations have no size; that of the image is used'].append(path.name)
            return dict(zip(('width', 'height'), read_image(image).size, strict=True))
        try:
            sides = [float(text) for text in given]
            if not all(side > 0 and side == int(side) for side in sides):
                raise ValueError
        except (ValueError, OverflowError) as error:
            raise InputError(f'{path} has no valid size/width and size/height, got {given}') from error
        return {'width': int(sides[0]), 'height': int(sides[1])}

    def _objects(self, tree: Xml.Element, path: Path) -> Iterator[dict[str, Any]]:
        for number, item in enumerate(tree.iter('object'), 1):
            where = f'{path}, object {number}'
            name = ' '.join((item.findtext('name') or '').split())
            if not name:
                raise InputError(f'{where} has no name')
            x1, y1, x2, y2 = corners(item, f'{where} ({name})')
            if min(x1, y1) < 1:
                self.assumed['boxes begin before pixel 1, where VOC begins; they are read as VOC'].append(
                    f'{path.name} ({name})'
                )
            left, top = max(x1 - 1, 0), max(y1 - 1, 0)
            box = [left, top, x2 - left, y2 - top]
            hard = _flag(item, f'{where} ({name})')
            yield {'name': name, 'bbox': box, 'area': box[2] * box[3], 'iscrowd': hard}


def corners(item: Xml.Element, where: str) -> list[float]:
    """xmin, ymin, xmax, ymax of an object.

    Raises:
        InputError: there are not four finite numbers, or a maximum is below its minimum.
    """
    texts = [item.findtext(f'bndbox/{key}') or '' for key in ('xmin', 'ymin', 'xmax', 'ymax')]
    try:
        found = [float(text) for text in texts]
    except ValueError as error:
        raise InputError(f'{where} has no bndbox with four numbers') from error
    if not all(map(math.isfinite, found)):
        raise InputError(f'{where} has a bndbox with a value that is not a finite number: {texts}')
    if found[2] < found[0] or found[3] < found[1]:
        raise InputError(f'{where}: xmax or ymax is below xmin or ymin in its bndbox {texts}')
    return found


def _flag(item: Xml.Element, where: str) -> int:
    """Whether an object is difficult; 0 if nothing is said."""
    text = (item.findtext('difficult') or '0').strip() or '0'
    if text not in ('0', '1'):
        raise InputError(f'{where}: difficult must be 0 or 1, got {text!r:.40}')
    return int(text)


def parse_xml(path: Path) -> Xml.Element:
    """An annotation file.

    Raises:
        InputError: not XML, with entities, or of another kind.
    """
    content = regular_file(path, _LARGEST_XML).read_bytes()
    try:
        guard = expat.ParserCreate()
        guard.EntityDeclHandler = _refuse_entity
        guard.Parse(content, True)
        tree = Xml.fromstring(content)
    except _Entity as error:
        raise InputError(
            f'{path} defines XML entities, which annotations do not need; remove them'
        ) from error
    except (Xml.ParseError, expat.ExpatError, LookupError, ValueError) as error:
        raise InputError(f'{path} is not XML: {error}') from error
    if tree.tag.lower() != 'annotation':
        raise InputError(f'{path} is not an annotation of PASCAL VOC: its root is <{tree.tag:.40}>')
    return tree


class _Entity(Exception):
    """The file defines an entity, which may expand to gigabytes or name another file."""


def _refuse_entity(*_: Any) -> None:
    raise _Entity
