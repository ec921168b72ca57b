"""The detector: an mmdet two-stage detector with an open vocabulary.

B: images, (H, W): pixels of the network's input, K: classes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmdet.models import TwoStageDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from clipdense.clip.checkpoint import load
from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.model import CLIP
from clipdense.data.detection.inference import test_transforms
from clipdense.data.detection.trained_sizes import KEY, TrainedSizes
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS, TRANSFORMS, build, build_module
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights
from clipdense.weights.strict import load_strict

from . import parts

_PARTS = [getattr(parts, name) for name in parts.__all__]
PROPOSER = ('backbone', 'neck', 'rpn_head')  # the parts that propose regions


@MODELS.register_module()
class ViLD(TwoStageDetector):
    """Open-vocabulary Mask R-CNN (Faster R-CNN without a mask head).

    Args:
        backbone, neck, rpn_head, roi_head: parts of mmdet; ``roi_head`` is a ``ViLDRoIHead``.
        train_cfg, test_cfg: as in mmdet's two-stage detectors.
        data_preprocessor: mmdet's.
        clip: the teacher, whose text tower embeds the class names: a model, its config, or weights as
            ``clipdense.load`` takes them.  It is not part of the detector's weights.
        frozen: names of parts that are not trained, such as ('backbone', 'neck', 'rpn_head').
        start: weights of a detector that initialize backbone, neck and RPN.

    Attributes:
        transforms: mmdet transforms, such as a resize, applied to images before ``test_step``.
        trained_sizes: of the images of the training, so far.
        clip_name: name of the CLIP whose text tower embeds class names, if ``clip`` is None.

    Raises:
        InputError: an unknown part among ``frozen``, or a teacher that cannot be loaded.
    """

    clip: CLIP | FrozenText | None
    method = 'vild'
    portable_name = 'vild'
    portable_types: Mapping[str, Any] = {
        **{f'{part.__module__}.{part.__qualname__}': part for part in _PARTS},
        **{part.__name__: part for part in _PARTS},
        **{name: name for name in parts.FOUND_BY_MMDET},
    }

    def __init__(
        self,
        backbone: Any,
        neck: Any,
        rpn_head: Any,
        roi_head: Any,
        train_cfg: Any,
        test_cfg: Any,
        data_preprocessor: Any = None,
        clip: nn.Module | dict | str | Path | None = None,
        frozen: Sequence[str] = (),
        start: str | Path | None = None,
    ) -> None:
        super().__init__(
            backbone,
            neck,
            copy.deepcopy(ConfigDict(rpn_head)),
            copy.deepcopy(ConfigDict(roi_head)),
            ConfigDict(train_cfg) if train_cfg is not None else None,
            ConfigDict(test_cfg),
            data_preprocessor,
        )
        self.frozen, self.start = tuple(frozen), start
        unknown = [name for name in self.frozen if name not in dict(self.named_children())]
        if unknown:
            known = sorted(dict(self.named_children()))
            raise InputError(f'frozen contains unknown parts {unknown}: use names from {known}')
        for name in self.frozen:
            getattr(self, name).requires_grad_(False)
        self.vocabulary: Vocabulary | None = None
        self.dataset_meta: dict[str, Any] = {}
        self.transforms: list[Any] = []
        self.trained_sizes = TrainedSizes()
        self.clip_name: str | None = None
        self.take_text_tower(clip)

    def take_text_tower(self, clip: nn.Module | dict | str | Path | None) -> None:
        """Set the teacher, or its text tower; it is not trained, moved or saved with the detector.

        Raises:
            InputError: it cannot be loaded.
        """
        self.__dict__['clip'] = None if clip is None else _teacher(clip).eval().requires_grad_(False)

    @property
    def portable_clip(self) -> FrozenText:
        """The part of the teacher that a self-describing file contains: its text tower."""
        assert self.clip is not None
        return FrozenText.of(self.clip)

    def portable_config(self, cfg: Mapping[str, Any]) -> dict[str, Any]:
        """Config for a self-describing file, without training settings, with what is known of images."""
        model = {**cfg['model'], 'train_cfg': None, 'start': None}
        return {'model': model, 'transforms': test_transforms(cfg), **self.trained_sizes.entry()}

    def apply_portable_config(self, config: Mapping[str, Any]) -> None:
        """Apply the entries of ``portable_config`` other than the model."""
        self.transforms = [build(one, TRANSFORMS) for one in config.get('transforms') or ()]
        self.trained_sizes = TrainedSizes(config.get(KEY))

    def init_weights(self) -> None:
        """Initialize the parts as they specify; then load ``start``."""
        super().init_weights()
        if self.start is not None:
            self.take_proposer(self.start)

    def take_proposer(self, weights: str | Path) -> None:
        """Load backbone, neck and RPN of another detector; its heads may differ.

        Raises:
            CheckpointError: a damaged file, or parts that do not match.
        """
        tensors = read_weights(weights).tensors
        for part in PROPOSER:
            prefix = f'{part}.'
            state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            load_strict(getattr(self, part), state, f'{weights} ({part})')

    def set_vocabulary(self, vocabulary: Vocabulary, embeddings: ClassEmbeddings) -> None:
        """Set the vocabulary, before training or at any time after it.  Weights do not change.

        Raises:
            ValueError: embeddings of another number of classes.
        """
        if embeddings.num_classes != len(vocabulary):
            raise ValueError(
                f'got embeddings of {embeddings.num_classes} classes for a vocabulary of {len(vocabulary)}'
            )
        novel = torch.tensor([name in vocabulary.novel for name in vocabulary.class_names])
        self.roi_head.bbox_head.set_vocabulary(embeddings.queries, embeddings.query_class, novel)
        self.vocabulary, self.num_classes = vocabulary, len(vocabulary)
        self.dataset_meta = {'classes': vocabulary.class_names, 'vocabulary': vocabulary}

    def train(self, mode: bool = True) -> ViLD:
        """Frozen parts stay in evaluation mode, so that their batch norm statistics do not change."""
        super().train(mode)
        for name in self.frozen:
            getattr(self, name).eval()
        return self

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> feature maps; without gradients if backbone and neck are frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not {'backbone', 'neck'} <= set(self.frozen)):
            return super().extract_feat(batch_inputs)

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample]) -> dict[str, Any]:
        """Normalized images and their annotations -> losses."""
        self.trained_sizes.note(batch_data_samples)
        self._check_labels(batch_data_samples)
        features = self.extract_feat(batch_inputs)
        settings = self.train_cfg.rpn_proposal
        if 'rpn_head' in self.frozen:
            with torch.no_grad():
                losses, proposals = {}, self.propose(features, batch_data_samples, settings)
        else:
            outputs = self._rpn(features)
            truths, ignored, metas = unpack_gt_instances([_objects_alone(one) for one in batch_data_samples])
            losses = self.rpn_head.loss_by_feat(*outputs, truths, metas, ignored)
            proposals = self.rpn_head.predict_by_feat(*outputs, batch_img_metas=metas, cfg=settings)
            losses = {name if 'rpn' in name else f'rpn_{name}': value for name, value in losses.items()}
        return {**losses, **self.roi_head.loss(features, proposals, batch_data_samples)}

    def propose(
        self, features: Sequence[Tensor], samples: Sequence[DetDataSample], settings: Any = None
    ) -> list[InstanceData]:
        """Class-agnostic boxes with scores for each image, in pixels of the network's input."""
        metas = [one.metainfo for one in samples]
        return self.rpn_head.predict_by_feat(
            *self._rpn(features), batch_img_metas=metas, cfg=settings or self.test_cfg.rpn, rescale=False
        )

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: Sequence[DetDataSample], rescale: bool = True
    ) -> Sequence[DetDataSample]:
        """Normalized images -> the samples with ``pred_instances``, in pixels of the images."""
        features = self.extract_feat(batch_inputs)
        proposals = self.propose(features, batch_data_samples)
        found = self.roi_head.predict(features, proposals, batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, found)

    def _rpn(self, features: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores and deltas of each level, in fp32: mmdet creates anchors in their dtype."""
        return tuple([at_least_fp32(level) for level in part] for part in self.rpn_head(features))

    def _check_labels(self, samples: Sequence[DetDataSample]) -> None:
        """Refuse objects of novel classes, which would be trained as background."""
        novel = self.roi_head.bbox_head.novel
        if novel is None:
            return
        if novel.all():
            raise InputError('all classes of the vocabulary are novel: training requires base classes')
        labels = torch.cat([one.gt_instances.labels for one in samples])
        if len(labels) and (int(labels.max()) >= len(novel) or novel[labels].any()):
            raise InputError(
                'the training data has objects of novel classes, or of classes outside the vocabulary: '
                "use a dataset of base classes (classes='base')"
            )


def _teacher(clip: nn.Module | dict | str | Path) -> CLIP | FrozenText:
    if not isinstance(clip, (str, Path)):
        return build_module(clip)
    try:
        return load(clip)
    except InputError as error:
        raise InputError(f'cannot load the teacher CLIP, model.clip: {error}') from error


def _objects_alone(sample: DetDataSample) -> DetDataSample:
    """Training targets of the RPN: boxes of one class."""
    truth = sample.gt_instances
    objects = DetDataSample(metainfo=sample.metainfo)
    objects.gt_instances = InstanceData(bboxes=truth.bboxes, labels=torch.zeros_like(truth.labels))
    if 'ignored_instances' in sample:
        objects.ignored_instances = sample.ignored_instances
    return objects
