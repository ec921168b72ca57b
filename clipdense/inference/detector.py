"""Open-vocabulary object detection.  n: detections, (H, W): pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from torch.nn import functional as F
from torchvision.ops import box_iou

from clipdense.clip.class_embeddings import ClassEmbedder
from clipdense.clip.model import CLIP
from clipdense.layers.precision import Precision, at_least_fp32, autocast, resolve_precision
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter
from clipdense.tasks.detection import DetectedObjects, DetectionModel, DetectionRules
from clipdense.utils.devices import choose_device
from clipdense.utils.errors import InputError
from clipdense.utils.image_open import MAX_PIXELS
from clipdense.utils.wording import counted
from clipdense.vocab.sentences import Sentence
from clipdense.vocab.spans import Span
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary

from .example_images import ExampleEmbedding, box_of, grid_boxes
from .load import Embedder, load_detector, load_embedder, load_text_clip, load_trained_detector
from .predictor import Predictor
from .reading import ImageSource, Input, read_batch, without_failed
from .results import Detections

_WITH_NEGATIVES = 100  # further detections of an image, of which some are negatives


class Detector(Predictor[Detections]):
    """A detection model and the embedder of its class names.

    Args:
        model: any detector.
        embedder: class names -> embeddings; by default a ``PromptEnsemble`` of the model's text tower with
            the templates of its method.
        rules: default detection rules of calls; the model's own by default.
        adapter: changes region embeddings and class scores, see ``load_adapter``.
        precision: 'auto', 'fp32' or 'bf16', see ``Predictor``.

    Raises:
        InputError: a model without a text tower, and no embedder; or an adapter that it cannot use.
    """

    _needs = ('predict', 'set_vocabulary', 'rules')
    _kind = 'regions'

    def __init__(
        self,
        model: DetectionModel,
        embedder: ClassEmbedder | None = None,
        rules: DetectionRules | None = None,
        adapter: Adapter | str | Path | None = None,
        precision: Precision = 'auto',
    ) -> None:
        super().__init__(model, embedder, adapter, precision)
        self.rules = rules or model.rules

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path | CLIP,
        method: str | None = None,
        *,
        method_options: Mapping[str, Any] | None = None,
        clip: str | Path | CLIP | None = None,
        templates: Templates | None = None,
        embedder: Embedder | None = None,
        rules: DetectionRules | None = None,
        adapter: Adapter | str | Path | None = None,
        device: str | torch.device | None = None,
        precision: Precision = 'auto',
        cache: bool = True,
        **overrides: Any,
    ) -> Detector:
        """A detector from an exported or official file.

        Args:
            weights, method, method_options: see ``load_detector``.
            clip: a CLIP that embeds the class names, instead of the text tower of the weights.
            templates: prompt templates; the method's own by default.
            embedder: see ``load_embedder``; replaces the templates.
            rules, precision: see the class.
            adapter: see ``load_adapter``.
            device: device of the model; None means the GPU if there is one.
            cache: whether to cache class embeddings on disk.
            overrides: settings that the weights do not record, as in ``load``.

        Raises:
            InputError: weights that need a config, are damaged, or contain NaN or infinite values.
        """
        resolve_precision(precision, choose_device(device))  # before weights are loaded
        model: Any = load_detector(weights, method, device, method_options=method_options, **overrides)
        if clip is None and embedder is None and model.clip is None:
            clip = getattr(model, 'clip_name', None)
        embeds = _embedder(model, clip, templates, embedder, device, cache)
        return cls(model, embeds, rules, adapter, precision)

    @classmethod
    def from_config(
        cls,
        config: str | Path | Config,
        weights: str | Path,
        *,
        clip: str | Path | CLIP | None = None,
        templates: Templates | None = None,
        embedder: Embedder | None = None,
        rules: DetectionRules | None = None,
        adapter: Adapter | str | Path | None = None,
        device: str | torch.device | None = None,
        precision: Precision = 'auto',
        cache: bool = True,
    ) -> Detector:
        """A detector from its training config and a checkpoint.

        Args:
            config: a file, the name of a config, or a config object; its ``test_dataloader`` specifies the
                image transforms.
            weights: a training checkpoint, or a weights file with matching tensors.
            clip: the CLIP that embeds class names, instead of the one in the config.
            templates, embedder, rules, adapter, device, precision, cache: see ``from_pretrained``.

        Raises:
            InputError: not the config of a detector, or weights that do not match it or are not finite.
        """
        resolve_precision(precision, choose_device(device))  # before weights are loaded
        keep_clip = clip is None and embedder is None
        model: Any = load_trained_detector(config, weights, device, keep_clip)
        embeds = _embedder(model, clip, templates, embedder, device, cache)
        return cls(model, embeds, rules, adapter, precision)

    def ground(
        self,
        image: ImageSource | list[ImageSource],
        text: str | Vocabulary | list[str | Vocabulary],
        phrases: Sequence[str | Sequence[Span]] | None = None,
        **options: Any,
    ) -> Any:
        """Detect the phrases of a sentence, or those of a sentence of its own in each image of a list.

        A model that reads several vocabularies at once, such as GLIP, reads the sentences of all images in
        one batch; others are asked for the phrases as class names, image by image.  The vocabulary of the
        predictor stays as it was.

        Args:
            image: as in a call; a list is one batch.
            text: a sentence for each image, or one for all; a vocabulary stands for itself.
            phrases: of one sentence, see ``Sentence.of``; by default its noun phrases.
            options: as in a call.

        Returns:
            Detections whose class names are the phrases; a list of them for a list of images.

        Raises:
            InputError: an unreadable image, another number of sentences than images, phrases for several
                sentences, or a sentence without these phrases.

        Example:
            >>> detector.ground('street.jpg', 'there are some holes on the road').show()
        """
        images = image if isinstance(image, list) else [image]
        texts = text if isinstance(text, list) else [text]
        if isinstance(text, list) and len(texts) != len(images):
            raise InputError(f'{counted(len(images), "image")}, but {counted(len(texts), "sentence")}')
        if phrases is not None and (len(texts) > 1 or not isinstance(texts[0], str)):
            raise InputError('phrases belong to one sentence: give Sentence.of(text, phrases) for each image')
        read = [one if isinstance(one, Vocabulary) else Sentence.of(one, phrases) for one in texts]
        asked = read if isinstance(text, list) else read * len(images)
        if shown := [name for one in read for name in one.examples]:
            raise InputError(f'class {shown[0]!r} is given by example images: pass its vocabulary to a call')
        inputs = without_failed(read_batch(list(enumerate(images)), MAX_PIXELS, self._check_encoded), 'raise')
        found = self._ground(inputs, asked, self._settings(options))
        return found if isinstance(image, list) else found[0]

    def _ground(
        self, images: list[Input], vocabularies: Sequence[Vocabulary], settings: Mapping[str, Any]
    ) -> list[Detections]:
        """Detections of each image for a vocabulary of its own; in one batch where the model can."""
        apart = any(one.negatives or one.thresholds for one in vocabularies)
        if apart or not hasattr(self.model, 'predict_each') or any(one.encoded for one in images):
            answers = [
                self._answers([image], vocabulary, 'raise', settings)[0]
                for image, vocabulary in zip(images, vocabularies, strict=True)
            ]
            return [result for _, result in answers]
        with self._lock, torch.no_grad(), autocast(self.device, self._autocast):
            pixels = [np.asarray(one.image) for one in images]
            found = self.model.predict_each(pixels, vocabularies, settings['rules'])
        return [
            self._result(one, image.image, vocabulary)
            for one, image, vocabulary in zip(found, images, vocabularies, strict=True)
        ]

    def _settings(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """Detection rules of a call: ``rules``, or single values such as ``score_threshold=0.5``."""
        changes = dict(options)
        rules = changes.pop('rules', None) or self.rules
        return {'rules': rules.changed(**changes)}

    def _for_vocabulary(self, settings: Mapping[str, Any], vocabulary: Vocabulary) -> Mapping[str, Any]:
        """Thresholds of the vocabulary, unless the rules of the call have others for a class."""
        rules: DetectionRules = settings['rules']
        if vocabulary.thresholds:
            own = {vocabulary.index(name): value for name, value in vocabulary.thresholds.items()}
            given = {
                vocabulary.index(key) if isinstance(key, str) else key: value
                for key, value in rules.class_thresholds.items()
            }
            rules.thresholds(vocabulary)  # refuses classes that are given twice
            rules = rules.changed(class_thresholds={**own, **given})
        if vocabulary.negatives:  # their detections are left out, see ``_reported``
            rules = rules.changed(max_detections=rules.max_detections + _WITH_NEGATIVES)
        return {'rules': rules}

    def _reported(
        self, result: Detections, vocabulary: Vocabulary, settings: Mapping[str, Any]
    ) -> Detections:
        """Without negatives, and without detections that overlap a negative of a higher score."""
        if not vocabulary.negatives:
            return result
        rules: DetectionRules = settings['rules']
        negative = result.class_ids >= len(vocabulary)
        boxes, scores = torch.from_numpy(result.xyxy), torch.from_numpy(result.confidence)
        covered = box_iou(boxes, boxes[negative]) > rules.iou_threshold  # (n, negatives)
        beaten = (covered & (scores[negative] >= scores[:, None])).any(dim=1).numpy()
        kept = np.flatnonzero(~negative & ~beaten)[: rules.max_detections - _WITH_NEGATIVES]
        masks = None if result.masks is None else result.masks[kept]
        return Detections(
            result.xyxy[kept],
            result.confidence[kept],
            result.class_ids[kept],
            vocabulary,
            masks,
            result.image,
        )

    def _predict(
        self,
        images: list[Input],
        vocabulary: Vocabulary,
        embeddings: ClassEmbeddings,
        settings: Mapping[str, Any],
    ) -> list[Detections]:
        self._set_on_model(vocabulary, embeddings)
        new = [np.asarray(one.image) for one in images if one.encoded is None]
        fresh = iter(self.model.predict(new, settings['rules']) if new else ())
        found = [
            next(fresh)
            if one.encoded is None
            else self.model.predict_encoded(one.encoded.features, settings['rules'])
            for one in images
        ]
        return [self._result(one, image.image, vocabulary) for one, image in zip(found, images, strict=True)]

    def _check_can_encode(self) -> None:
        if not hasattr(self.model, 'encode_image'):
            raise InputError(
                f'a {type(self.model).__name__} reads class names together with the image, so that there is '
                'nothing to encode beforehand: pass the image to the call'
            )

    def _check_can_embed_examples(self) -> None:
        super()._check_can_embed_examples()
        if not hasattr(self.model, 'embed_regions'):
            raise InputError(
                f'a {type(self.model).__name__} reads class names together with the image, so that classes '
                'cannot be given by example images: give their names'
            )

    def _embed_example(self, image: Image.Image, mask: np.ndarray | None, alone: bool) -> ExampleEmbedding:
        own = (0, 0, *image.size) if mask is None else box_of(mask)
        boxes = torch.tensor([own, *grid_boxes(image.size)], dtype=torch.float32)
        with autocast(self.device, self._autocast):
            found = at_least_fp32(self.model.embed_regions(np.asarray(image), boxes))
        return ExampleEmbedding(found[0], F.normalize(found, dim=-1))

    def _encode(self, image: Image.Image) -> Any:
        return self.model.encode_image(np.asarray(image))

    @staticmethod
    def _result(one: DetectedObjects, image: Image.Image, vocabulary: Vocabulary) -> Detections:
        return Detections(
            at_least_fp32(one.xyxy).cpu().numpy(),
            at_least_fp32(one.confidence).cpu().numpy(),
            one.class_ids.cpu().numpy(),
            vocabulary,
            None if one.masks is None else one.masks.cpu().numpy(),
            image,
        )


def _embedder(
    model: Any,
    clip: str | Path | CLIP | None,
    templates: Templates | None,
    embedder: Embedder | None,
    device: str | torch.device | None,
    cache: bool,
) -> ClassEmbedder:
    """The embedder of a detector; model and text tower are moved to one device."""
    place = choose_device(device)
    if clip is not None:
        model.clip = load_text_clip(clip, place)
    return load_embedder(model.to(place), embedder, templates, cache)
