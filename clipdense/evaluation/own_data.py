"""Scores of a trained model on data of one's own, without the config of its training.

A predictor is a ``Classifier``, ``Segmenter`` or ``Detector``: what is scored is what these find.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.preprocess import Preprocess
from clipdense.data.dataset_parts import DataLayout
from clipdense.data.layouts import SHARDS
from clipdense.data.run_lengths import has_mask
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.utils.progress import track
from clipdense.utils.wording import counted
from clipdense.vocab.names import normalize
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.vocab.wording import with_wording

_BOXES_OF_A_CAPTION = 100


@dataclass
class OwnData:
    """What is scored.

    Args:
        layout: of the data.
        part: name of a part of it; by default what validates a training, or all there is.
        classes: names in place of those of the data, in the order of its labels.
        novel: classes that are also scored apart from the others.
        wording: file with the words around the names of boxes, see ``vocab.wording.with_wording``.

    Attributes:
        count: number of samples, once they are read.
    """

    layout: DataLayout
    part: str | None = None
    classes: Sequence[str] = ()
    novel: Sequence[str] = ()
    wording: str | Path | None = None
    count: int = field(default=0, init=False)

    @property
    def part_name(self) -> str:
        """Name of the part."""
        return self.layout.part(self.part)[0]

    def build(self, **more: Any) -> Any:
        """The dataset.

        Raises:
            InputError: no such part, or other class names than the data can have.
        """
        _, part = self.layout.part(self.part)
        data = part.build(**more)
        self.count = max(self.count, len(data))
        return data

    def vocabulary(self, own: Vocabulary) -> Vocabulary:
        """The classes of masks or boxes, some of which are novel.

        Raises:
            InputError: novel classes that the data does not have, or words for other classes.
        """
        names = own.class_names
        if self.classes:
            if len(self.classes) != len(names):
                raise InputError(
                    f'{self.layout.path} has {counted(len(names), "class name")}, --classes has '
                    f'{len(self.classes)}: name each class, in the order of its labels'
                )
            names = tuple(self.classes)
            background = None if own.background is None else names[own.index(own.background)]
            kept = frozenset(names[own.index(name)] for name in own.novel)
            own = Vocabulary(names, background=background, novel=kept)
        if self.novel:
            own = replace(own, novel=own.novel | {*self._known(names)})
        return own if self.wording is None else with_wording(own, self.wording)

    def halves(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Base and novel classes.

        Raises:
            InputError: no class is left for one of them.
        """
        novel = {normalize(name) for name in self._known(names)}
        base = [name for name in names if normalize(name) not in novel]
        if not base:
            raise InputError('--novel names all classes of the data: there are no base classes')
        return {'base': base, 'novel': [name for name in names if normalize(name) in novel]}

    def without_classes(self) -> None:
        """Check that no class names are given for data that has none.

        Raises:
            InputError: they are.
        """
        given = (('--classes', self.classes), ('--novel', self.novel), ('--wording', self.wording))
        for option, names in given:
            if names:
                raise InputError(
                    f'{self.layout.path} has {self.layout.kind}, which have no classes: remove {option}'
                )

    def _known(self, names: Sequence[str]) -> list[str]:
        there = {normalize(name) for name in names}
        for name in self.novel:
            if normalize(name) not in there:
                raise InputError(f'--novel: the data has no class {name!r}; it has {", ".join(names[:10])}')
        return list(self.novel)


def segmentation(segmenter: Any, own: OwnData) -> dict[str, float]:
    """Metrics of ``MeanIoU``, of a segmenter on images with masks."""
    from .segmentation import SegmentationEvaluator

    data = own.build()
    vocabulary = own.vocabulary(data.vocabulary)
    segmenter.set_vocabulary(vocabulary)

    def label(image: Tensor, sample: SegmentationSample) -> Tensor:
        return torch.from_numpy(segmenter(_to_image(image)).mask).long()

    evaluator = SegmentationEvaluator(data, vocabulary, title='test')
    return evaluator.compare({'': label})[''].to_dict()


def detection(detector: Any, own: OwnData) -> dict[str, float]:
    """Metrics of ``DetectionAP``, of a detector on images with boxes.

    A GPU reads several images at a time; on a CPU that was not faster for images of 480 pixels.

    Masks are scored too, as ``segm/...``, if the detector gives masks and every object has one.
    """
    from clipdense.utils.image_io import read_image

    from .detection.metric import DetectionAP

    data = own.build()
    vocabulary = own.vocabulary(data.vocabulary)
    detector.set_vocabulary(vocabulary)
    metric: DetectionAP | None = None
    images = (read_image(record.path) for record in data.images)
    answers = detector.stream(images, batch_size='auto')
    for record, (_, found) in zip(track(data.images, 'test'), answers, strict=True):
        if metric is None:  # the first detections show whether there are masks
            masks = found.masks is not None and _all_have_masks(data.ground_truth)
            metric = DetectionAP(kinds=('bbox', 'segm') if masks else ('bbox',))
            metric.dataset_meta = _renamed(data.metainfo, data.vocabulary, vocabulary)
        values = {'bboxes': found.xyxy, 'scores': found.confidence, 'labels': found.class_ids}
        if 'segm' in metric.kinds:
            if found.masks is None:
                raise InputError(f'{record.path} has too many pixels for masks: test with smaller images')
            values['masks'] = found.masks
        instances = {name: torch.from_numpy(value) for name, value in values.items()}
        metric.process(None, [{'img_id': record.image_id, 'pred_instances': instances}])
    assert metric is not None  # a dataset has images
    return metric.evaluate(len(data))


def phrases(detector: Any, own: OwnData) -> dict[str, float]:
    """Metrics of ``PhraseRecall``, of a detector on captions with boxes, one caption at a time.

    The best 100 boxes of a caption count, over all of its phrases.  An image with several captions is encoded
    once, if the detector can encode images.
    """
    from clipdense.utils.image_io import read_image
    from clipdense.vocab.sentences import Sentence

    from .detection.phrases import boxes_of_phrases, phrase_recall

    own.without_classes()
    data = own.build()
    found: dict[Any, list[Tensor]] = {}
    of_image: dict[Path, list[Any]] = {}
    for record in data.images:
        if record.caption.phrases:
            of_image.setdefault(record.path, []).append(record)
    for record in track([one for records in of_image.values() for one in records], 'test'):
        caption, records = record.caption, of_image[record.path]
        if record is records[0]:
            image = read_image(record.path)
            if len(records) > 1 and hasattr(detector.model, 'encode_image'):
                image = detector.encode(image)
        sentence = Sentence.of(caption.text, caption.phrases)
        one = detector.ground(image, sentence, score_threshold=0.0, max_detections=_BOXES_OF_A_CAPTION)
        boxes, scores, labels = map(torch.from_numpy, (one.xyxy, one.confidence, one.class_ids))
        found[record.image_id] = boxes_of_phrases(boxes, scores, labels, len(caption.phrases))
    return phrase_recall(data.ground_truth, found)


def phrase_masks(detector: Any, own: OwnData) -> dict[str, float]:
    """Metrics of ``PhraseMasks``, of a detector on phrases with masks, one phrase at a time."""
    from clipdense.utils.image_io import read_image
    from clipdense.vocab.sentences import Sentence

    from .detection.phrase_masks import NO_MASKS, SCORE_THRESHOLD, PhraseObjects, summary

    own.without_classes()
    data = own.build()
    objects, overlaps = PhraseObjects(data.ground_truth), []
    for record in track(data.images, 'test'):
        sentence = Sentence.of(record.caption.text, record.caption.phrases)
        found = detector.ground(
            read_image(record.path),
            sentence,
            score_threshold=SCORE_THRESHOLD,
            max_detections=_BOXES_OF_A_CAPTION,
        )
        if found.masks is None:
            raise InputError(NO_MASKS)
        masks, labels = torch.from_numpy(found.masks), torch.from_numpy(found.class_ids)
        overlaps += objects.overlaps(record.image_id, masks, labels)
    return summary(overlaps)


def classification(classifier: Any, own: OwnData) -> dict[str, float]:
    """Accuracy of a classifier on labeled images.

    Of a CLIP these are the metrics of ``ZeroShotClassification``; with learned prompts or an adapter those of
    ``ClassifierAccuracy``, where base and novel classes are classified apart.
    """
    from clipdense.data.transforms import CenterCrop

    from .base_to_new import ClassifierAccuracy
    from .classification import ZeroShotClassification

    more: dict[str, Any] = {'transform': CenterCrop.of(classifier.clip.preprocess)}
    if own.classes:
        more['class_names'] = list(own.classes)
    data = own.build(**more)
    halves = own.halves(data.class_names) if own.novel else {}
    if classifier.adapter is None and isinstance(classifier.embedder, PromptEnsemble):
        return ZeroShotClassification(data, splits=halves)(classifier.clip)
    parts = {'test': data}
    if halves:
        names = {'base': halves['base'], 'new': halves['novel']}
        parts = {name: own.build(**more, classes=members) for name, members in names.items()}
    model: Any = _LabelModel(classifier)
    return ClassifierAccuracy(parts)(model)


def retrieval(classifier: Any, own: OwnData) -> dict[str, float]:
    """Metrics of ``Retrieval``, of a CLIP on images with captions."""
    from .retrieval import Retrieval

    if classifier.adapter is not None or not isinstance(classifier.embedder, PromptEnsemble):
        raise InputError(
            f'{own.layout.path} has captions; --prompts and --adapter are for class names: remove them'
        )
    clip = classifier.clip
    return Retrieval(captioned_images(own, clip.preprocess, clip.tokenizer))(clip)


def captioned_images(own: OwnData, preprocess: Preprocess, tokenizer: Any = None) -> Any:
    """The dataset of images with captions for ``Retrieval``.

    Args:
        own: the data.
        preprocess: of the images.
        tokenizer: see ``ImageTextPairs``.

    Raises:
        InputError: shards, or class names for data that has none.
    """
    from clipdense.data.transforms import CenterCrop

    own.without_classes()
    if own.layout.layout == SHARDS:
        raise InputError(
            f'{own.layout.path}: shards are a stream; give a table or COCO captions to test with'
        )
    more = {'group': True} if own.layout.train.name == 'CsvPairs' else {}
    return own.build(transform=CenterCrop.of(preprocess), tokenizer=tokenizer, **more)


class _LabelModel(nn.Module):
    """A classifier as ``ClassifierAccuracy`` calls it; images are not normalized before."""

    class_names: tuple[str, ...] = ()
    _classifier: Any

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.clip, self._classifier = classifier.clip, classifier

    def data_preprocessor(self, data: dict[str, Any]) -> dict[str, Any]:
        """The same images."""
        return data

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes of subsequent calls."""
        self._classifier.set_vocabulary(list(names))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> probabilities (B, K)."""
        found = self._classifier([_to_image(image) for image in images])
        return torch.stack([torch.from_numpy(one.probabilities) for one in found])


def _all_have_masks(truth: Mapping[str, Any]) -> bool:
    """Whether the objects of annotations have masks.

    Warns:
        UserWarning: some of them have and others have not, so that masks are not scored.
    """
    objects = [one for one in truth['annotations'] if not one['iscrowd']]
    known = sum(map(has_mask, objects))
    if 0 < known < len(objects):
        warnings.warn(
            f'masks are not scored: {len(objects) - known} of {len(objects)} objects have no mask in the data'
        )
    return bool(objects) and known == len(objects)


def _to_image(image: Tensor) -> Image.Image:
    """(3, H, W) uint8 -> an image."""
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def _renamed(meta: dict[str, Any], before: Vocabulary, after: Vocabulary) -> dict[str, Any]:
    """The ``dataset_meta`` of boxes with other class names."""
    new = dict(zip(map(normalize, before.class_names), after.class_names, strict=True))
    truth = meta['ground_truth']
    categories = [
        {**one, 'name': new.get(normalize(one['name']), one['name'])} for one in truth['categories']
    ]
    return {
        'vocabulary': after,
        'classes': after.class_names,
        'ground_truth': {**truth, 'categories': categories},
    }
