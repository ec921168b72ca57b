"""Detection datasets: COCO, LVIS and PASCAL VOC.  n: objects, R: regions."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from torch.utils.data import Dataset

from clipdense.data.batches import sample_rng
from clipdense.data.run_lengths import has_mask, to_pixels
from clipdense.registry import DATASETS, TRANSFORMS, build
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.image_io import read_image
from clipdense.vocab.names import normalize, places
from clipdense.vocab.vocabulary import Vocabulary

from .coco import find_images, read_coco
from .splits import OV_COCO_WORDS, choose
from .store import RegionStore
from .transforms import PackDetection
from .voc import read_voc

_TRIES = 10  # for a random crop with at least one object


class ImageRecord(NamedTuple):
    """One entry."""

    image_id: int
    path: Path
    size: tuple[int, int]  # (H, W), as displayed
    objects: list[dict[str, Any]]  # annotations, in COCO's layout
    caption: Any = None  # of a set of captions with boxes


@DATASETS.register_module()
class CocoDetection(Dataset):
    """Images with boxes from a file in COCO's or LVIS's layout.

    Args:
        annotations: the JSON file; checked by ``coco.check_coco``.
        images: folder of the images.
        classes: class names in the order of labels, or the name of a split, see ``splits.choose``; all
            categories by default. Objects of other classes are dropped, as are, in training and under
            the protocol of OV-COCO, images without objects.
        novel: novel classes among ``classes``, in addition to those of the split or the file.
        transforms: mmdet's transforms, or their configs, without packing.
        regions: folder of a ``RegionStore`` whose embeddings are returned with each image.
        pack: the last transform; it drops regions that are cropped away.
        training: drop images without objects and regions.
        masks: read masks as well.
        seed: of random transforms, together with the epoch and the image.

    Raises:
        InputError: an unknown class, or files that cannot be used.
    """

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        classes: str | Sequence[str] | None = None,
        novel: Sequence[str] = (),
        transforms: Sequence[Any] = (),
        regions: str | Path | None = None,
        pack: PackDetection | dict | None = None,
        training: bool = False,
        masks: bool = False,
        seed: int = 0,
    ) -> None:
        self._set_up(read_coco(annotations), Path(images), classes, novel)
        self._finish(transforms, regions, pack, training, masks, seed)

    def _set_up(
        self, data: dict[str, Any], images: Path, classes: str | Sequence[str] | None, novel: Sequence[str]
    ) -> None:
        names = {one['id']: one['name'] for one in data['categories']}
        chosen, known_novel = choose(data['categories'], classes)
        self.vocabulary = Vocabulary(chosen, novel=_novel(chosen, (*known_novel, *novel), names.values()))
        label_of = {
            key: self.vocabulary.index(name) for key, name in names.items() if name in self.vocabulary
        }
        objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for one in data['annotations']:
            if one['category_id'] in label_of:
                objects[one['image_id']].append({**one, 'label': label_of[one['category_id']]})
        self.images = []
        for one, path in zip(data['images'], find_images(data['images'], images), strict=True):
            size = (one['height'], one['width'])
            self.images.append(ImageRecord(one['id'], path, size, objects[one['id']]))
        if classes in OV_COCO_WORDS:
            self.images = [one for one in self.images if one.objects]
        self.ground_truth = data

    def _finish(
        self,
        transforms: Sequence[Any],
        regions: str | Path | None,
        pack: PackDetection | dict | None,
        training: bool,
        masks: bool,
        seed: int,
    ) -> None:
        self.transforms = [build(one, TRANSFORMS) for one in transforms]
        self.pack = build(pack if pack is not None else PackDetection(), TRANSFORMS)
        self.masks, self.seed = masks, seed
        if masks:
            _check_masks(self.images)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # shared with persistent workers
        self.regions = RegionStore(regions) if regions is not None else None
        if self.regions is not None:
            self.regions.check_images((one.image_id, *one.size[::-1]) for one in self.images)
        if training and self.regions is None:
            self.images = [one for one in self.images if one.objects]
        crowds = training and all(item['iscrowd'] for one in self.images for item in one.objects)
        if not self.images or (crowds and self.regions is None):
            kind = ' that is not a crowd' if self.images else ''
            raise InputError(
                f'no image contains an object of the chosen classes{kind}; check classes and annotations'
            )

    @property
    def metainfo(self) -> dict[str, Any]:
        """The ``dataset_meta`` that MMEngine passes to metrics."""
        return {
            'vocabulary': self.vocabulary,
            'classes': self.vocabulary.class_names,
            'ground_truth': self.ground_truth,
        }

    def set_epoch(self, epoch: int) -> None:
        """Select the random transforms of this epoch, also in running workers."""
        self._epoch.fill_(epoch)

    @property
    def epoch(self) -> int:
        """Of the random transforms, see ``set_epoch``."""
        return int(self._epoch)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``inputs`` (3, H, W) uint8 RGB and ``data_samples``."""
        return self.sample(index)

    def sample(self, index: int, copy: int = 0) -> dict[str, Any]:
        """As ``self[index]``; each copy of an image has random transforms of its own in an epoch."""
        record = self.images[index]
        image = np.asarray(read_image(record.path))
        if image.shape[:2] != record.size:
            raise InputError(
                f'{record.path} is {image.shape[1]} x {image.shape[0]}, '
                f'but {record.size[1]} x {record.size[0]} in the annotations'
            )
        for attempt in range(_TRIES):
            results = self._transformed(self._loaded(record, image), index, copy * _TRIES + attempt)
            if results is not None:
                return self.pack(results)
        return self.pack(self._loaded(record, image))  # the whole image

    def _loaded(self, record: ImageRecord, image: np.ndarray) -> dict[str, Any]:
        objects = record.objects
        boxes = np.array([one['bbox'] for one in objects], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        results = {
            'img': image,
            'img_id': record.image_id,
            'img_path': str(record.path),
            'ori_shape': record.size,
            'img_shape': record.size,
            'gt_bboxes': HorizontalBoxes(boxes),
            'gt_bboxes_labels': np.array([one['label'] for one in objects], np.int64),
            'gt_ignore_flags': np.array([bool(one['iscrowd']) for one in objects], bool),
        }
        if self.masks:
            results['gt_masks'] = BitmapMasks([_mask(one, record.size) for one in objects], *record.size)
        if self.regions is not None:
            results['regions'] = self.regions[record.image_id]
        return results

    def _transformed(self, results: dict[str, Any], index: int, attempt: int) -> dict[str, Any] | None:
        """mmdet's transforms use NumPy's global generator, which is seeded and restored."""
        before = np.random.get_state()  # noqa: NPY002
        draw = sample_rng(self.seed, self.epoch, f'{index}/{attempt}')
        np.random.seed(draw.getrandbits(32))  # noqa: NPY002
        try:
            for transform in self.transforms:
                results = transform(results)
                if results is None:
                    return None
        finally:
            np.random.set_state(before)  # noqa: NPY002
        return results


@DATASETS.register_module()
class VOCDetection(CocoDetection):
    """A detection dataset in the layout of PASCAL VOC; ids count from 1 in the order of the list.

    Args:
        root: folder with ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``.
        split: name of a list in ``ImageSets/Main``.
        classes, novel, transforms, regions, pack, training, seed: as in ``CocoDetection``; classes are sorted
            by default.

    Raises:
        InputError: missing or unreadable files.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        classes: str | Sequence[str] | None = None,
        novel: Sequence[str] = (),
        transforms: Sequence[Any] = (),
        regions: str | Path | None = None,
        pack: PackDetection | dict | None = None,
        training: bool = False,
        seed: int = 0,
    ) -> None:
        root = Path(root)
        self._set_up(read_voc(root, split), root / 'JPEGImages', classes, novel)
        self._finish(transforms, regions, pack, training, False, seed)


def _check_masks(images: Sequence[ImageRecord]) -> None:
    """Refuse objects without a mask, which would be learned as empty; regions of crowds need none."""
    objects = [(image, one) for image in images for one in image.objects if not one['iscrowd']]
    missing = [(image, one) for image, one in objects if not has_mask(one)]
    if missing:
        image, one = missing[0]
        raise InputError(
            f'masks=True, but {len(missing)} of {len(objects)} objects have no mask, first box {one["bbox"]} '
            f'in {image.path.name}; add the masks, remove these objects, or set masks=False'
        )


def _novel(chosen: Sequence[str], novel: Iterable[str], known: Iterable[str]) -> frozenset[str]:
    """The chosen classes that are novel; other names of the annotations are left out."""
    wanted, there = places(novel), places(known)
    for name in novel:
        if normalize(name) not in there:
            warnings.warn(f'novel class {name!r} is not in the annotations.{nearest(name, known)}')
    return frozenset(name for name in chosen if normalize(name) in wanted)


def _mask(annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """(H, W) uint8; empty for a crowd without a mask, which is not a target."""
    return to_pixels(annotation['segmentation'], size) if has_mask(annotation) else np.zeros(size, np.uint8)
