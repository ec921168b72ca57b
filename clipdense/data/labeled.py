"""A few labeled images, masks or boxes, and others to validate with, in any supported layout.

``LabeledData(root, shots=4).open()`` recognizes the layout: class folders, a split file of CoOp, a folder in
the layout of PASCAL VOC with masks or boxes, or annotations in COCO's layout.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from clipdense.utils.errors import InputError
from clipdense.vocab.names import normalize, places

from .classification.datasets import LabeledImages
from .classification.few_shot import FewShotImages, draw_shots, is_readable
from .classification.splits import ImageSubset, has_parts
from .segmentation.datasets import VOCSegmentation

Labels = Literal['images', 'masks', 'boxes']
REST = 'rest'  # validation with what was not drawn


class MaskedImages(NamedTuple):
    """Some images of a dataset with masks."""

    dataset: VOCSegmentation
    indices: list[int]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the masks."""
        return self.dataset.vocabulary.class_names

    @property
    def files(self) -> list[str]:
        """Paths of the images."""
        return [str(self.dataset.images[index]) for index in self.indices]


class BoxedImage(NamedTuple):
    """An image and some of its boxes."""

    path: Path
    boxes: list[list[float]]  # xyxy in pixels
    labels: list[int]


class BoxedImages(NamedTuple):
    """Boxes of some images."""

    images: list[BoxedImage]
    class_names: tuple[str, ...]

    @property
    def files(self) -> list[str]:
        """Paths of the images."""
        return [str(image.path) for image in self.images]


class Parts(NamedTuple):
    """What is learned from, and what is validated with."""

    train: Any  # LabeledImages, MaskedImages or BoxedImages
    validation: Any | None


@dataclass(frozen=True)
class LabeledData:
    """Where labeled examples are, and how many are used.

    Args:
        root: a folder of class folders (or of ``train``, ``val``, ``test`` with such), a split file of CoOp,
            a folder in the layout of PASCAL VOC, or annotations of boxes in COCO's layout (JSON).
        labels: 'images', 'masks' or 'boxes'; recognized by default.  A VOC folder with both has masks.
        split: name of the list of a VOC folder.
        shots: examples of each class (images, boxes), or images with masks; all by default.
        seed: of the draw.
        validation: other examples: a folder of class folders, a split file, the name of another list of the
            VOC folder, another JSON file, or 'rest' for those that are not drawn.
        images: folder of the images of a JSON file; by default its own folder.
        classes: of images: 'all', 'base' (the first half by label), 'new' (the others), or class names.

    Raises:
        InputError: an unknown kind of labels, shots or seed out of range.
    """

    root: str | Path
    labels: Labels | None = None
    split: str = 'train'
    shots: int | None = None
    seed: int = 0
    validation: str | Path | None = None
    images: str | Path | None = None
    classes: str | Sequence[str] = 'all'

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels not in get_args(Labels):
            raise InputError(f'labels must be one of {", ".join(get_args(Labels))}, got {self.labels!r}')
        for name, value, least in (('shots', self.shots, 1), ('seed', self.seed, 0)):
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not whole and (name, value) != ('shots', None):
                raise InputError(f'{name} must be a whole number of at least {least}, got {value!r}')
        if str(self.validation) == REST and self.shots is None:
            raise InputError("validation='rest' needs shots: without, all examples are used")

    @property
    def kind(self) -> Labels:
        """What the examples are.

        Raises:
            InputError: no such folder or file, or none of the layouts.
        """
        if self.labels is not None:
            return self.labels
        root = Path(self.root).expanduser()
        if root.suffix.lower() == '.json' and root.is_file():
            return 'images' if _is_split_file(root) else 'boxes'
        if not root.exists():
            raise InputError(f'{root} does not exist')
        if (root / 'JPEGImages').is_dir():
            found = [('SegmentationClass', 'masks'), ('Annotations', 'boxes')]
            kinds: list[Any] = [kind for folder, kind in found if (root / folder).is_dir()]
            if not kinds:
                raise InputError(f'{root} has JPEGImages, but neither SegmentationClass nor Annotations')
            return kinds[0]
        return 'images'

    def open(self) -> Parts:
        """Read the lists of examples; images are read later.

        Raises:
            InputError: files that are missing or damaged, a class without examples, no validation examples,
                or the same images for both.
        """
        if self.classes != 'all' and self.kind != 'images':
            raise InputError(f'classes={self.classes!r:.60} chooses among labeled images, not {self.kind}')
        train, validation = {'images': self._images, 'masks': self._masks, 'boxes': self._boxes}[self.kind]()
        parts = Parts(train, validation)
        if validation is not None:
            shared = sorted(_files(train) & _files(validation))
            if shared:
                raise InputError(
                    f'{len(shared)} images are both examples and validation images ({shared[0]}): validate '
                    "with others, or with validation='rest'"
                )
            if not _files(validation):
                raise InputError(f'no validation images are left in {self.root}: draw fewer shots')
        return parts

    def _images(self) -> tuple[LabeledImages, LabeledImages | None]:
        own = has_parts(self.root)
        whole = FewShotImages(self.root, 'train' if own else 'all', classes=self.classes)
        keys = [whole.key(index) for index in range(len(whole))]
        chosen = self._draw(whole.labels, keys, whole.class_names, lambda index: is_readable(whole, index))
        train = ImageSubset(whole, chosen)
        if self.validation is None:
            return train, FewShotImages(self.root, 'val', classes=self.classes) if own else None
        if str(self.validation) == REST:
            rest = sorted(set(range(len(whole))) - set(chosen))
            return train, ImageSubset(whole, rest)
        return train, self._other_images(train.class_names)

    def _other_images(self, names: tuple[str, ...]) -> LabeledImages:
        """The validation images in another place, of these classes if only some are used."""
        assert self.validation is not None
        part = 'val' if has_parts(self.validation) else 'all'
        found = FewShotImages(self.validation, part)
        if self.classes == 'all':
            return found
        known = places(names)
        kept = [name for name in found.class_names if normalize(name) in known]
        return FewShotImages(self.validation, part, classes=kept)

    def _masks(self) -> tuple[MaskedImages, MaskedImages | None]:
        whole = VOCSegmentation(self.root, self.split)
        names = [path.name for path in whole.images]
        chosen = self._draw([0] * len(names), names, ('image',))
        if self.validation is None:
            return MaskedImages(whole, chosen), None
        if str(self.validation) == REST:
            rest = sorted(set(range(len(names))) - set(chosen))
            return MaskedImages(whole, chosen), MaskedImages(whole, rest)
        other = VOCSegmentation(self.root, str(self.validation), whole.vocabulary)
        return MaskedImages(whole, chosen), MaskedImages(other, list(range(len(other))))

    def _boxes(self) -> tuple[BoxedImages, BoxedImages | None]:
        data, files = self._annotations(self.root, self.split)
        names = tuple(one['name'] for one in data['categories'])
        rows = [one for one in data['annotations'] if not one['iscrowd']]
        place = {one['id']: label for label, one in enumerate(data['categories'])}
        labels = [place[one['category_id']] for one in rows]
        keys = [f'{files[one["image_id"]].name}/{one["bbox"]}' for one in rows]
        chosen = self._draw(labels, keys, names)
        train = _boxed(
            [(files[rows[index]['image_id']], rows[index]['bbox'], labels[index]) for index in chosen]
        )
        if self.validation is None:
            return BoxedImages(train, names), None
        if str(self.validation) == REST:
            used = {image.path for image in train}  # other boxes of the same images are no validation
            rest = [index for index, one in enumerate(rows) if files[one['image_id']] not in used]
            other = [(files[rows[index]['image_id']], rows[index]['bbox'], labels[index]) for index in rest]
            return BoxedImages(train, names), BoxedImages(_boxed(other), names)
        return BoxedImages(train, names), self._other_boxes(names)

    def _other_boxes(self, names: tuple[str, ...]) -> BoxedImages:
        assert self.validation is not None
        listed = Path(self.root).suffix.lower() != '.json'
        root, split = (self.root, str(self.validation)) if listed else (self.validation, self.split)
        data, files = self._annotations(root, split)
        known = {one['id']: one['name'] for one in data['categories']}
        unknown = sorted(set(known.values()) - set(names))
        if unknown:
            raise InputError(f'the validation boxes have classes without examples: {", ".join(unknown[:10])}')
        rows = [one for one in data['annotations'] if not one['iscrowd']]
        found = [
            (files[one['image_id']], one['bbox'], names.index(known[one['category_id']])) for one in rows
        ]
        return BoxedImages(_boxed(found), names)

    def _annotations(self, root: str | Path, split: str) -> tuple[dict[str, Any], dict[Any, Path]]:
        """Boxes in COCO's layout, and the file of each image by its id."""
        from .detection.coco import find_images, read_coco  # images and masks need no mmdet
        from .detection.voc import read_voc

        path = Path(root).expanduser()
        if path.suffix.lower() == '.json':
            data, folder = read_coco(path), Path(self.images or path.parent)
        else:
            data, folder = read_voc(path, split), path / 'JPEGImages'
        files = find_images(data['images'], folder)
        return data, dict(zip([one['id'] for one in data['images']], files, strict=True))

    def _draw(
        self,
        labels: Sequence[int],
        keys: Sequence[str],
        names: Sequence[str],
        usable: Callable[[int], bool] | None = None,
    ) -> list[int]:
        if self.shots is None:
            return [index for index, label in enumerate(labels) if label >= 0]
        return draw_shots(labels, self.shots, self.seed, keys, names, usable=usable)


def _boxed(rows: Sequence[tuple[Path, Sequence[float], int]]) -> list[BoxedImage]:
    """Boxes (path, xywh, label) grouped by image."""
    found: dict[Path, tuple[list, list]] = defaultdict(lambda: ([], []))
    for path, (x, y, width, height), label in rows:
        found[path][0].append([x, y, x + width, y + height])
        found[path][1].append(label)
    return [BoxedImage(path, boxes, labels) for path, (boxes, labels) in found.items()]


def _files(part: Any) -> set[str]:
    """The image files of a part, in one spelling."""
    if isinstance(part, MaskedImages | BoxedImages):
        return {os.path.realpath(path) for path in part.files}
    whole: Any = part
    indices = list(range(len(part)))
    while isinstance(whole, ImageSubset):
        whole, indices = whole.source, [whole.indices[index] for index in indices]
    root = getattr(whole, 'root', None)
    if root is None:
        return {whole.key(index) for index in indices}
    return {os.path.realpath(Path(root) / whole.images[index][0]) for index in indices}


def _is_split_file(path: Path) -> bool:
    """Whether a JSON file begins as CoOp's split files do, with lists of images."""
    with open(path, 'rb') as file:
        return b'"train"' in file.read(64)
