"""ViLD as a ``DetectionModel``: detects in images of any size, boxes are in pixels of the images."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn

from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP
from clipdense.data.detection.inference import (
    checked_image_size,
    in_batches,
    move_preprocessor,
    preprocess_image,
)
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import Adapter
from clipdense.tasks.detection import DetectedObjects, DetectionRules, Pixels
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .detector import ViLD


class EncodedRegions(NamedTuple):
    """An image before its regions are classified."""

    features: tuple[Tensor, ...]  # (1, C, h, w) of each level
    proposals: list[Any]  # boxes with scores, of one image
    samples: list[Any]  # its sizes


class ViLDPredictor(nn.Module):
    """A ``DetectionModel`` from a ``ViLD``, its text tower and the test transforms of its config.

    Args:
        model: the detector.
        clip: the CLIP that embeds class names; ``model.clip`` by default.
        image_size: longer side of resized images in pixels, in place of the test transforms.
    """

    templates = 'vild'
    method = 'vild'
    adapter: Adapter | None = None

    def __init__(
        self, model: ViLD, clip: CLIP | FrozenText | None = None, image_size: int | None = None
    ) -> None:
        super().__init__()
        self.model, self.image_size = model, image_size
        self.clip = model.clip if clip is None else clip
        self.clip_name = model.clip_name
        self.eval()

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The current vocabulary."""
        return self.model.vocabulary

    @property
    def rules(self) -> DetectionRules:
        """The detection rules of the config."""
        settings = self.model.roi_head.test_cfg
        return DetectionRules(
            score_threshold=float(settings.score_thr),
            iou_threshold=settings.nms.iou_threshold,
            class_agnostic=settings.nms.get('class_agnostic', False),
            max_detections=settings.max_per_img,
        )

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """Set the vocabulary for subsequent calls.  Weights do not change."""
        self.model.set_vocabulary(vocabulary, embeddings)

    @property
    def embedding_source(self) -> ViLD:
        """The detector, whose weights embed regions."""
        return self.model

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.model.roi_head.bbox_head.embed_dim

    @property
    def cosine_scale(self) -> float:
        """The factor on cosines."""
        return 1 / self.model.roi_head.bbox_head.test_temperature

    def set_adapter(self, adapter: Adapter | None) -> None:
        """Set or remove the adapter for subsequent calls; of an ensemble it changes the text branch."""
        self.__dict__['adapter'] = adapter

    @torch.no_grad()
    def embed_regions(self, image: Pixels, boxes: Tensor) -> Tensor:
        """An RGB image (H, W, 3) uint8 and boxes (R, 4) xyxy in its pixels -> unit embeddings (R, D)."""
        data = preprocess_image(self.model, np.asarray(image), self.image_size)
        features = self.model.extract_feat(data['inputs'])
        width, height = data['data_samples'][0].metainfo.get('scale_factor', (1.0, 1.0))
        scaled = boxes.to(features[0]) * features[0].new_tensor([width, height, width, height])
        head = self.model.roi_head
        levels = features[: head.bbox_roi_extractor.num_inputs]
        return head.bbox_head.embed(head.bbox_roi_extractor(levels, bbox2roi([scaled])))

    @torch.no_grad()
    def predict(self, images: Sequence[Pixels], rules: DetectionRules) -> list[DetectedObjects]:
        """Detect in RGB images (H, W, 3) uint8, of any sizes.

        Only images of the same size are batched, since padding would change the results.

        Raises:
            InputError: no vocabulary has been set, or it lacks a class of ``rules.class_thresholds``.
        """
        move_preprocessor(self.model)

        def detect(_: list[int], batch: dict[str, Any]) -> list[DetectedObjects]:
            return [_objects(sample.pred_instances) for sample in self.model.test_step(batch)]

        with self._following(rules):
            return in_batches(self.model, images, detect, self.image_size)

    @torch.no_grad()
    def encode_image(self, image: Pixels) -> EncodedRegions:
        """An RGB image (H, W, 3) uint8 -> its feature maps and proposals, for any number of vocabularies."""
        data = preprocess_image(self.model, np.asarray(image), self.image_size)
        features = self.model.extract_feat(data['inputs'])
        return EncodedRegions(
            features, self.model.propose(features, data['data_samples']), data['data_samples']
        )

    @torch.no_grad()
    def predict_encoded(self, encoded: EncodedRegions, rules: DetectionRules) -> DetectedObjects:
        """As ``predict``, for an image that ``encode_image`` encoded."""
        with self._following(rules):
            found = self.model.roi_head.predict(
                encoded.features, encoded.proposals, encoded.samples, rescale=True
            )
        return _objects(found[0])

    @contextmanager
    def _following(self, rules: DetectionRules) -> Iterator[None]:
        """Use ``rules`` instead of those of the config."""
        if self.vocabulary is None:
            raise InputError('no vocabulary is set: call set_vocabulary(vocabulary, embeddings) first')
        head = self.model.roi_head
        kept, settings = head.test_cfg, copy.deepcopy(head.test_cfg)
        settings.score_thr = rules.thresholds(self.vocabulary)
        settings.nms.iou_threshold = rules.iou_threshold
        settings.nms.class_agnostic = rules.class_agnostic
        settings.max_per_img = rules.max_detections
        head.test_cfg = settings
        head.bbox_head.set_adapter(self.adapter, self.vocabulary)
        try:
            yield
        finally:
            head.test_cfg = kept
            head.bbox_head.set_adapter(None, None)


def build(model: ViLD, name: str, options: Mapping[str, Any]) -> ViLDPredictor:
    """A ViLD as a detector."""
    return ViLDPredictor(model, image_size=checked_image_size(options))


def _objects(one: Any) -> DetectedObjects:
    return DetectedObjects(one.bboxes, one.scores, one.labels, one.get('masks'))
