"""Boxes for the noun phrases of captions, found by a trained detector, that another one learns from.

Li et al., GLIP, CVPR 2022, section 3.3: a teacher grounds the captions of web images.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from clipdense.data.detection.grounding import CATEGORIES
from clipdense.data.faults import FaultBudget
from clipdense.data.image_text.shard_copies import each_shard, sources, with_copies
from clipdense.data.image_text.shard_files import (
    RawPair,
    caption_members,
    intact_pairs,
    list_shards,
    open_shard,
)
from clipdense.tasks.detection import DetectionRules
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write, writable_folder
from clipdense.utils.image_io import read_image
from clipdense.utils.jobs import Job, Part
from clipdense.utils.json_files import read_json
from clipdense.vocab.noun_phrases import NounExtractor
from clipdense.vocab.sentences import Sentence
from clipdense.weights.io import weights_digest

from .detector import Detector
from .results import Detections

ANNOTATIONS, IMAGES = 'annotations.json', 'images'


@dataclass(frozen=True)
class PseudoLabelRules:
    """Which boxes are kept.

    Args:
        score_threshold: lowest score of a box, 0 to 1.
        nms: of two boxes of one image that overlap by more than this IoU the better one is kept, also if they
            belong to different phrases.  None: boxes of one phrase only, by the teacher's own rule.
        min_boxes: images with fewer are left out.

    Raises:
        InputError: a number out of range.
    """

    score_threshold: float = 0.5
    nms: float | None = None
    min_boxes: int = 1

    def __post_init__(self) -> None:
        self.changed(DetectionRules())
        if isinstance(self.min_boxes, bool) or not isinstance(self.min_boxes, int) or self.min_boxes < 1:
            raise InputError(f'min_boxes must be a whole number, at least 1, got {self.min_boxes!r}')

    def changed(self, rules: DetectionRules) -> DetectionRules:
        """The rules of a detector, with these."""
        rules = rules.changed(score_threshold=self.score_threshold, class_thresholds={})
        return rules if self.nms is None else rules.changed(iou_threshold=self.nms, class_agnostic=True)


@dataclass(frozen=True)
class PseudoLabelReport:
    """What became of the samples of the shards."""

    samples: int
    images: int
    boxes: int
    dropped: dict[str, int]

    def lines(self) -> list[str]:
        """For people."""
        share = f' of {self.samples} images' if self.samples else ''
        first = f'{self.boxes} boxes in {self.images}{share}'
        return [first, *(f'  {count} left out: {reason}' for reason, count in self.dropped.items())]


def pseudo_label(
    urls: str | Path | Sequence[str | Path],
    folder: str | Path,
    detector: Detector,
    rules: PseudoLabelRules | None = None,
    captions: str | Sequence[str] = 'txt',
    part: Part | None = None,
    extractor: NounExtractor | None = None,
    batch_size: int = 8,
    max_bad_fraction: float = 0.01,
) -> PseudoLabelReport | None:
    """Ground the noun phrases of captions, and write images with boxes that ``GroundingDetection`` reads.

    Writes ``images/SHARD/KEY.jpg`` and, when all parts are done, ``annotations.json``, whose annotations also
    have the ``score``.  Shards that an interrupted call has finished are kept.

    Args:
        urls: shards, as in ``ImageTextShards``; the first caption of a sample is used.
        folder: output folder.
        detector: the teacher; a folder is not continued with another one.
        rules: which boxes are kept.
        captions: members of the captions, as in ``ImageTextShards``.
        part: only the shards of this part.
        extractor: finds the noun phrases; by the dictionary by default.
        batch_size: images that are read together.
        max_bad_fraction: fraction of damaged shards above which the call fails, see ``each_shard``.

    Returns:
        The report, or None while parts are missing.

    Warns:
        UserWarning: no image got a box.

    Raises:
        InputError: missing or too many damaged shards, a full disk, or a folder of another job.
    """
    rules, extractor = rules or PseudoLabelRules(), extractor or NounExtractor()
    shards, fields = list_shards(urls), caption_members(captions)
    settings = {**sources(shards), 'captions': fields, **asdict(rules)}
    settings |= {'teacher': weights_digest(detector.model.state_dict())[:16], 'tagger': extractor.tagger}
    job = Job(folder, 'pseudo-label', settings, part)
    task = _Task(job, detector, rules, extractor, fields, batch_size)
    places = [(shard, task.record(copy)) for shard, copy in with_copies(shards, folder)]
    mine = job.part.of(places, 'shard')
    with job.running():
        if not job.complete:
            writable_folder(task.records)
            each_shard(job, mine, 'grounding captions', task.label, None, max_bad_fraction)
            job.finish({'shards': len(mine)}, lambda: task.merge(_done(places)))
    if not job.complete:
        return None
    report = task.report(_done(places))
    if not report.images:
        warnings.warn(
            f'no image of {report.samples} got a box, so that nothing can be trained on: see the reasons, '
            'lower score_threshold, or name the member of the captions'
        )
    return report


class _Task:
    """The work on a shard, and the merge."""

    def __init__(
        self,
        job: Job,
        detector: Detector,
        rules: PseudoLabelRules,
        extractor: NounExtractor,
        fields: Sequence[str],
        batch_size: int,
    ) -> None:
        self.job, self.detector, self.extractor, self.fields = job, detector, extractor, fields
        self.least, self.rules, self.batch_size = rules.min_boxes, rules.changed(detector.rules), batch_size
        self.records = job.state / 'records'

    def record(self, copy: Path) -> Path:
        """Where the images and boxes of a shard are noted."""
        return self.records / f'{copy.stem}.json'

    def label(self, shard: str, path: Path) -> str:
        """Write the images of a shard, then its record; returns where the shard is damaged."""
        place = self.job.folder / IMAGES / path.stem
        writable_folder(place)
        faults, dropped = FaultBudget('samples', 1.0, log=False), Counter[str]()
        found: list[dict[str, Any]] = []
        damage: list[str] = []
        with open_shard(shard) as stream:
            pairs = intact_pairs(stream, self.fields, faults, damage.append)
            for batch in _batches(self._usable(pairs, dropped), self.batch_size):
                found += self._labeled(batch, place, dropped)
        dropped.update(faults.causes)
        with atomic_write(path, 'w') as file:
            record = {'samples': faults.seen, 'dropped': dict(sorted(dropped.items())), 'images': found}
            json.dump(record, file, ensure_ascii=False)
        return ''.join(damage)

    def merge(self, records: Sequence[Path]) -> None:
        """Write the annotations of all shards."""
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for path in records:
            for one in read_json(path)['images']:
                number = len(images) + 1
                images.append({'id': number, **{key: one[key] for key in one if key != 'boxes'}})
                for box in one['boxes']:
                    about = {'id': len(annotations) + 1, 'image_id': number, 'category_id': 1, 'iscrowd': 0}
                    annotations.append({**about, **box})
        content = {'images': images, 'annotations': annotations, 'categories': CATEGORIES}
        with atomic_write(self.job.folder / ANNOTATIONS, 'w') as file:
            json.dump(content, file, ensure_ascii=False)

    def report(self, records: Sequence[Path]) -> PseudoLabelReport:
        """The sums over all shards."""
        samples, images, boxes, dropped = 0, 0, 0, Counter[str]()
        for path in records:
            one = read_json(path)
            samples, images = samples + one['samples'], images + len(one['images'])
            boxes += sum(len(image['boxes']) for image in one['images'])
            dropped.update(one['dropped'])
        return PseudoLabelReport(samples, images, boxes, dict(sorted(dropped.items())))

    def _usable(
        self, pairs: Iterator[RawPair], dropped: Counter[str]
    ) -> Iterator[tuple[RawPair, Image.Image, Sentence]]:
        """Samples whose image can be read and whose caption has noun phrases."""
        for pair in pairs:
            caption = pair.captions[0]
            spans = self.extractor.spans(caption)
            if not spans:
                dropped['no noun phrase'] += 1
                continue
            try:
                image = read_image(pair.image)
            except InputError:
                dropped['unreadable image'] += 1
                continue
            yield pair, image, Sentence.of(caption, [[span] for span in spans])

    def _labeled(
        self, batch: Sequence[tuple[RawPair, Image.Image, Sentence]], place: Path, dropped: Counter[str]
    ) -> list[dict[str, Any]]:
        found = []
        for (pair, image, sentence), answer in zip(batch, self._answers(batch), strict=True):
            if answer is None:
                dropped['a caption that does not fit'] += 1
            elif len(answer) < self.least:
                dropped['too few boxes'] += 1
            else:
                name = f'{pair.key.replace("/", "_")}{_ending(pair.image)}'
                with atomic_write(place / name) as file:
                    file.write(pair.image)
                about = {'file_name': f'{place.name}/{name}', 'width': image.width, 'height': image.height}
                found.append({**about, 'caption': sentence.text, 'boxes': _boxes(answer, sentence)})
        return found

    def _answers(self, batch: Sequence[tuple[RawPair, Image.Image, Sentence]]) -> list[Detections | None]:
        """Detections of each image; None for a caption that the teacher refuses."""
        images: list[Any] = [one[1] for one in batch]
        sentences: list[Any] = [one[2] for one in batch]
        try:
            return list(self.detector.ground(images, sentences, rules=self.rules))
        except InputError:
            if len(batch) == 1:
                return [None]
        return [answer for one in batch for answer in self._answers([one])]


def _done(places: Sequence[tuple[str, Path]]) -> list[Path]:
    """The records of the shards that could be opened."""
    return [path for _, path in places if path.exists()]


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for one in items:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _boxes(answer: Detections, sentence: Sentence) -> list[dict[str, Any]]:
    found = []
    for (x1, y1, x2, y2), score, phrase in zip(
        answer.xyxy.tolist(), answer.confidence.tolist(), answer.class_ids.tolist(), strict=True
    ):
        box = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
        spans = [list(span) for span in sentence.spans[phrase]]
        area = round(box[2] * box[3], 2)
        found.append({'bbox': box, 'area': area, 'tokens_positive': spans, 'score': round(score, 4)})
    return found


def _ending(data: bytes) -> str:
    """Of the name of an image file."""
    if data[:3] == b'\xff\xd8\xff':
        return '.jpg'
    return '.png' if data[:4] == b'\x89PNG' else '.webp'
