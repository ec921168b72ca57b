"""Boxes as Roboflow exports them in COCO's layout, and ODinW: a JSON file beside the images of each split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipdense.data.roboflow import PROMPTS, annotations_of, split_folder
from clipdense.registry import DATASETS
from clipdense.vocab.names import normalize
from clipdense.vocab.wording import with_wording

from .coco import read_coco
from .datasets import CocoDetection


def read_roboflow(path: str | Path) -> dict[str, Any]:
    """The boxes of one split, without the group of classes that Roboflow writes as category 0.

    Args:
        path: of the JSON file.

    Raises:
        InputError: as ``read_coco``.
    """
    data = read_coco(path)
    used = {one['category_id'] for one in data['annotations']}
    groups = {normalize(str(one.get('supercategory', ''))) for one in data['categories'] if one['id']}
    kept = [one for one in data['categories'] if one['id'] in used or not _is_group(one, groups)]
    return {**data, 'categories': sorted(kept or data['categories'], key=lambda one: one['id'])}


@DATASETS.register_module()
class RoboflowDetection(CocoDetection):
    """A detection dataset in the layout of Roboflow's COCO exports.

    Args:
        root: folder with ``train``, ``valid`` and ``test``, each with images and ``_annotations.coco.json``
            (or ``annotations_without_background.json``, which ODinW adds and which is preferred).
        split: name of one of the folders; 'val' and 'valid' are the same.
        annotations: name of another JSON file in the folder of the split, such as
            'fewshot_train_shot3_seed30.json' of ODinW.
        wording: file with the words around the class names, see ``vocab.wording.with_wording``; by default
            ``prompts.json`` in ``root``, if there is one.
        classes, novel, transforms, training, seed: as in ``CocoDetection``; by default the classes are in the
            order of their ids.

    Raises:
        InputError: missing or unreadable files, or words for other classes.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = 'train',
        annotations: str | None = None,
        wording: str | Path | None = None,
        classes: Sequence[str] | None = None,
        novel: Sequence[str] = (),
        transforms: Sequence[Any] = (),
        training: bool = False,
        seed: int = 0,
    ) -> None:
        folder = split_folder(Path(root), split)
        data = read_roboflow(annotations_of(folder, annotations))
        self._set_up(data, folder, classes, novel)
        default = Path(root) / PROMPTS
        if wording is not None or default.is_file():
            self._word(wording or default)
        self._finish(transforms, None, None, training, False, seed)

    def _word(self, path: str | Path) -> None:
        """Other words for the classes, also in the ground truth."""
        before = self.vocabulary.class_names
        self.vocabulary = with_wording(self.vocabulary, path)
        new = dict(zip(map(normalize, before), self.vocabulary.class_names, strict=True))
        categories = [
            {**one, 'name': new.get(normalize(one['name']), one['name'])}
            for one in self.ground_truth['categories']
        ]
        self.ground_truth = {**self.ground_truth, 'categories': categories}


def _is_group(category: Mapping[str, Any], groups: set[str]) -> bool:
    """Whether this is the name of the data set, which other classes have as their supercategory."""
    return category['id'] == 0 and normalize(category['name']) in groups
