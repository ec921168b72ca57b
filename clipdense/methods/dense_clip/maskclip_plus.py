"""MaskCLIP+: a segmentation network trained on pseudo labels of a training-free segmenter.

B: images, (H, W): pixels, (h, w): grid of the student, D: joint space, K: classes, Q: queries.

Zhou et al., Extract Free Dense Labels from CLIP, ECCV 2022 (arXiv 2112.01071) section 3.3.  The student
predicts pixel embeddings that are compared with CLIP's class embeddings, so it is open-vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.model import CLIP
from clipdense.registry import MODELS, build_module
from clipdense.structures import best_of_queries
from clipdense.tasks.labels import training_masks
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError

from .dense_method import cosines
from .segmenter import DenseCLIP

_IGNORED = 255


@MODELS.register_module()
class MaskCLIPPlus(SegmentationModel):
    """A student trained on the masks of a teacher, and later on its own (self-training).

    Args:
        teacher: a training-free segmenter, or its config; frozen.
        student: a network (B, 3, H, W) -> (B, D, h, w), or its config; it may return a dict with 'out', as
            torchvision's segmentation models do.
        guided_steps: training steps with pseudo labels of the teacher; the student provides them afterwards.
            None: always the teacher.
        confidence: pixels whose pseudo label has a lower probability are ignored.
        use_masks: keep the labels of the dataset and give pseudo labels to unlabeled pixels only; if the
            vocabulary has novel classes, pseudo labels are restricted to them (zero-shot segmentation).
        slide, logit_scale, background_threshold, memory_budget: see ``SegmentationModel``.
    """

    step: Tensor

    def __init__(
        self,
        teacher: DenseCLIP | dict,
        student: nn.Module | dict,
        guided_steps: int | None = None,
        confidence: float = 0.0,
        use_masks: bool = False,
        slide: Slide | dict | None = None,
        logit_scale: float = 40.0,
        background_threshold: float = 0.0,
        memory_budget: int = 256 << 20,
    ) -> None:
        built: DenseCLIP = build_module(teacher)
        preprocess = built.clip.preprocess
        super().__init__(
            preprocess.mean, preprocess.std, slide, logit_scale, background_threshold, memory_budget
        )
        self.teacher = built.requires_grad_(False)
        self.student = build_module(student)
        self.guided_steps, self.confidence, self.use_masks = guided_steps, confidence, use_masks
        self.register_buffer('step', torch.zeros((), dtype=torch.int64))  # training step, in checkpoints

    @property
    def clip(self) -> CLIP:
        """The CLIP of the teacher, whose text tower embeds the class names."""
        return self.teacher.clip

    def train(self, mode: bool = True) -> MaskCLIPPlus:
        """The teacher stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def encode_pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> unit embeddings (B, D, h, w)."""
        found = self.student(images)
        return F.normalize(found['out'] if isinstance(found, Mapping) else found, dim=1)

    def classify_pixels(self, features: Any, text: Tensor) -> Tensor:
        """(B, D, h, w), (K, D) -> cosines (B, K, h, w)."""
        return cosines(features, text)

    def loss(self, images: Any, samples: Any) -> dict[str, Tensor]:
        """Cross-entropy over classes on labeled pixels, and the fraction of pixels with a label.

        Raises:
            InputError: images of different sizes, samples without a mask, or labels that are not classes.
        """
        if len({tuple(image.shape) for image in images}) > 1:
            raise InputError(
                'the images of a training batch have different sizes: crop them with SegmentationCrops'
            )
        images = torch.stack(list(images))
        size = (images.shape[-2], images.shape[-1])
        logits = self._class_logits(self, images, size)  # (B, K, H, W)
        taught = self.guided_steps is None or int(self.step) < self.guided_steps
        with torch.no_grad():
            guide = self._class_logits(self.teacher, images, size) if taught else logits
            labels = self._labels(guide, samples)
        self.step += 1
        known = labels != _IGNORED
        loss = F.cross_entropy(logits, labels, ignore_index=_IGNORED, reduction='sum') / known.sum().clamp(
            min=1
        )
        return {'loss': loss, 'labelled': known.float().mean()}

    def _class_logits(self, model: SegmentationModel, images: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3, H, W) -> (B, K, *size): the maximum over the queries of each class."""
        logits = model.pixel_logits(images, self._text()) * model.logit_scale  # (B, Q, h, w)
        if len(self.query_class) != self.num_classes:
            logits = best_of_queries(logits, self.query_class, self.num_classes, dim=1)
        return F.interpolate(logits, size, mode='bilinear', align_corners=False)

    def _labels(self, logits: Tensor, samples: Any) -> Tensor:
        """(B, K, H, W) -> (B, H, W) class of each pixel, ``_IGNORED`` where there is none."""
        novel = (
            sorted(self.vocabulary.index(name) for name in self.vocabulary.novel) if self.vocabulary else []
        )
        if self.use_masks and novel:
            outside = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
            outside[novel] = False
            logits = logits.masked_fill(outside[:, None, None], float('-inf'))
        probability, labels = logits.softmax(dim=1).max(dim=1)
        labels = labels.masked_fill(probability < self.confidence, _IGNORED)
        if not self.use_masks:
            return labels
        masks = training_masks(samples, self.num_classes, _IGNORED).to(labels)
        return torch.where(masks == _IGNORED, labels, masks)


@MODELS.register_module()
class PyramidStudent(nn.Module):
    """A small student: the stages of a timm backbone, projected to the joint space and summed.

    Args:
        name: name of a timm model that supports ``features_only``.
        embed_dim: D.
        weights: whether to load timm's pre-trained weights, downloading them if needed.
    """

    def __init__(self, name: str, embed_dim: int, weights: bool = False) -> None:
        super().__init__()
        import timm

        backbone: Any = timm.create_model(name, pretrained=weights, features_only=True)
        self.heads = nn.ModuleList(
            nn.Conv2d(width, embed_dim, 1) for width in backbone.feature_info.channels()
        )
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D, h, w), on the grid of the finest stage."""
        maps = [head(stage) for head, stage in zip(self.heads, self.backbone(images), strict=True)]
        size = maps[0].shape[-2:]
        finer = (F.interpolate(stage, size, mode='bilinear', align_corners=False) for stage in maps[1:])
        return sum(finer, start=maps[0])
