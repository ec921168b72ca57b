"""Captions with boxes of their phrases, in the layout of MDETR's Flickr30k entities.  n: boxes.

COCO's JSON, in which each entry of ``images`` is one caption of an image (``caption``; an image with five
captions has five entries) and each annotation has ``tokens_positive``, the characters of its phrase:
``[[start, end], ...]``.  Categories are not used.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipdense.data.batches import sample_rng
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.utils.jobs import refuse_incomplete
from clipdense.utils.json_files import read_json
from clipdense.vocab.spans import Span, check_spans, mirrored, words_of

from .coco import LARGEST_FILE, check_coco, find_images
from .datasets import CocoDetection, ImageRecord
from .transforms import PackDetection

CATEGORIES = [{'id': 1, 'name': 'object', 'supercategory': 'object'}]  # which COCO's layout needs
_ALL = 0.5  # share of the captions with others that have as many others as allowed


class CaptionRecord(NamedTuple):
    """A caption and its phrases with boxes, numbered as the labels of the boxes."""

    text: str
    phrases: tuple[tuple[Span, ...], ...]

    @property
    def words(self) -> tuple[str, ...]:
        """Of each phrase."""
        return tuple(words_of(spans, self.text) for spans in self.phrases)


def read_grounding(path: str | Path) -> tuple[dict[str, Any], list[CaptionRecord]]:
    """Read and check a file of captions with boxes.

    Args:
        path: JSON, see above; boxes are checked as those of COCO.

    Returns:
        'images', 'annotations' (each with ``label``, the number of its phrase) and 'categories'; and the
        caption of each entry of ``images``.

    Raises:
        InputError: as ``read_coco``; an entry without caption, or an annotation whose ``tokens_positive`` is
            missing, nested more or less deeply, or outside of the caption; pseudo-labels of which parts are
            missing.
    """
    refuse_incomplete(Path(path).parent)  # of pseudo-labels
    return check_grounding(read_json(path, LARGEST_FILE), str(path))


def check_grounding(raw: Any, source: str) -> tuple[dict[str, Any], list[CaptionRecord]]:
    """As ``read_grounding``, of the content of such a file.

    Args:
        raw: the content.
        source: its name, for messages.

    Raises:
        InputError: as ``read_grounding``.
    """
    data = check_coco(raw, source)
    texts = {image['id']: _caption(image, f'{source}: image {image["id"]}') for image in data['images']}
    for one in raw['annotations']:  # with the ids of the file
        _check_phrase(one, texts[one['image_id']], f'{source}: annotation {one["id"]}')
    phrases: dict[Any, dict[tuple[Span, ...], int]] = {key: {} for key in texts}
    annotations = []
    for one in data['annotations']:
        known = phrases[one['image_id']]
        spans = check_spans(one['tokens_positive'], texts[one['image_id']])
        annotations.append({**one, 'label': known.setdefault(spans, len(known))})
    captions = [CaptionRecord(texts[image['id']], tuple(phrases[image['id']])) for image in data['images']]
    return {**data, 'annotations': annotations}, captions


@DATASETS.register_module()
class GroundingDetection(CocoDetection):
    """Images with a caption each, and boxes of its phrases.

    A sample has ``caption``, ``phrases`` (spans of characters; the labels of its boxes count them),
    ``other_captions``, which do not belong to the image, and the words of their phrases, ``other_phrases``.
    In the texts of a mirrored image "left" and "right" change places.

    Args:
        annotations: the JSON file, see ``read_grounding``.
        images: folder of the images.
        transforms, pack, seed: as in ``CocoDetection``.
        training: drop captions without boxes.
        others: captions of other images that a sample gets, at most; none of them has a phrase of its own.
        share: fraction of the samples that get some; half of these get all.
        masks: read masks as well.

    Raises:
        InputError: files that cannot be used, or a number out of range.
    """

    vocabulary = None  # type: ignore[assignment]
    has_texts = True  # in place of a vocabulary

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        transforms: Sequence[Any] = (),
        pack: PackDetection | dict | None = None,
        training: bool = False,
        others: int = 0,
        share: float = 0.6,
        masks: bool = False,
        seed: int = 0,
    ) -> None:
        self._set_others(others, share)
        read = self._read(annotations, Path(images))
        self._set_texts(*read, Path(images), str(annotations) if training else None)
        self._finish(transforms, None, pack, training, masks, seed)

    def _set_others(self, others: int, share: float) -> None:
        if isinstance(others, bool) or not isinstance(others, int) or others < 0:
            raise InputError(f'others must be a whole number, at least 0, got {others!r}')
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise InputError(f'share must be a number from 0 to 1, got {share!r}')
        self.others, self.share = others, share

    def _set_texts(
        self, data: dict[str, Any], captions: Sequence[CaptionRecord], images: Path, needed: str | None
    ) -> None:
        """The captions and their boxes; of ``needed``, a source, at least one must have some."""
        if needed is not None and not data['annotations']:
            raise InputError(f'{needed}: no caption has a box')
        self.ground_truth = data
        objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for one in data['annotations']:
            objects[one['image_id']].append(one)
        paths = find_images(data['images'], images, repeated=True)
        self.images = [
            ImageRecord(one['id'], path, (one['height'], one['width']), objects[one['id']], caption)
            for one, path, caption in zip(data['images'], paths, captions, strict=True)
        ]

    def _read(self, annotations: str | Path, images: Path) -> tuple[dict[str, Any], list[CaptionRecord]]:
        """The annotations, and the caption of each entry."""
        return read_grounding(annotations)

    @property
    def metainfo(self) -> dict[str, Any]:
        """The ``dataset_meta`` that MMEngine passes to metrics."""
        return {'ground_truth': self.ground_truth}

    def _loaded(self, record: ImageRecord, image: np.ndarray) -> dict[str, Any]:
        caption = record.caption
        assert caption is not None
        return {**super()._loaded(record, image), 'caption': caption.text, 'phrases': caption.phrases}

    def _transformed(self, results: dict[str, Any], index: int, attempt: int) -> dict[str, Any] | None:
        draw = sample_rng(self.seed, self.epoch, f'{index}/captions')
        others = self._others(index, draw)
        results['other_captions'] = [one.text for one in others]
        results['other_phrases'] = list(dict.fromkeys(words for one in others for words in one.words))
        found = super()._transformed(results, index, attempt)
        if found is not None and found.get('flip') and found.get('flip_direction') != 'vertical':
            found['caption'], found['phrases'] = mirrored(found['caption'], found['phrases'])
            for key in ('other_captions', 'other_phrases'):
                found[key] = [mirrored(text, ())[0] for text in found[key]]
        return found

    def _others(self, index: int, draw: Any) -> list[CaptionRecord]:
        """Captions of other images; those with a phrase of this one are left out."""
        if not self.others or draw.random() >= self.share:
            return []
        count = self.others if draw.random() < _ALL else draw.randrange(self.others)
        own = {words.casefold() for words in self._caption_of(index).words}
        places = draw.sample(range(len(self.images)), min(count, len(self.images)))
        found = [self._caption_of(place) for place in places if place != index]
        return [one for one in found if not own & {words.casefold() for words in one.words}]

    def _caption_of(self, index: int) -> CaptionRecord:
        return self.images[index].caption


def _check_phrase(annotation: Mapping[str, Any], text: str, where: str) -> None:
    if 'tokens_positive' not in annotation:
        raise InputError(
            f'{where} has no tokens_positive: a file of captions with boxes has the characters of the phrase '
            'of each box, such as [[0, 5]]'
        )
    try:
        check_spans(annotation['tokens_positive'], text)
    except InputError as error:
        raise InputError(f'{where}, tokens_positive: {error}') from error


def _caption(image: Mapping[str, Any], where: str) -> str:
    text = image.get('caption')
    if not isinstance(text, str) or not text.strip():
        raise InputError(
            f'{where} has no caption: each entry of images needs one in a file of captions with boxes, '
            f'got {text!r:.40}'
        )
    return text
