"""ViLD's second stage: sampled proposals are classified, stored regions are distilled from the teacher.

B: images, R: sampled regions, S: regions with a teacher embedding, C: channels, D: joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.models.utils import empty_instances, unpack_gt_instances
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox2roi
from mmengine.structures import InstanceData
from torch import Tensor

from clipdense.data.detection.masks import masks_fit
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS

from .functional import distillation_loss, valid_regions


@MODELS.register_module()
class ViLDRoIHead(StandardRoIHead):
    """mmdet's RoI head with distillation.

    Images carry their regions as ``data_sample.regions`` with ``bboxes`` (S, 4) in the pixels of the
    network's input and ``embeddings`` (S, D).

    Args:
        distill_weight: weight of the distillation loss; 0.5 for R50, 1 (ViLD) and 2 (ensemble) for R152.
        parts: arguments of mmdet's ``StandardRoIHead``.
    """

    def __init__(self, distill_weight: float = 0.5, **parts: Any) -> None:
        super().__init__(**parts)
        self.distill_weight = distill_weight

    def loss(
        self,
        x: Sequence[Tensor],
        rpn_results_list: Sequence[InstanceData],
        batch_data_samples: Sequence[DetDataSample],
    ) -> dict[str, Tensor]:
        """Feature maps and proposals -> losses.

        Sampled and stored regions go through the head in one batch, for the statistics of batch norm.  Maps
        are cast to fp32 first: mmdet casts boxes to their dtype, and bf16 has a resolution of 4 pixels at
        1,000.
        """
        x = [at_least_fp32(level) for level in x]
        truths, ignored, _ = unpack_gt_instances(batch_data_samples)
        sampled = [self._sample(*image) for image in zip(rpn_results_list, truths, ignored, strict=True)]
        rois = bbox2roi([one.priors for one in sampled])  # (R, 5)
        stored, teacher = self._stored(batch_data_samples, rois)  # (S, 5), (S, D)
        features = self.bbox_roi_extractor(
            x[: self.bbox_roi_extractor.num_inputs], torch.cat([rois, stored])
        )  # (R + S, C, 7, 7)
        losses = self._head_losses(features, rois, stored, teacher, sampled)
        if self.with_mask:
            losses |= self.mask_loss(x, sampled, features[: len(rois)], truths)['loss_mask']
        return losses

    def predict(
        self,
        x: Sequence[Tensor],
        rpn_results_list: Sequence[InstanceData],
        batch_data_samples: Sequence[DetDataSample],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Feature maps and proposals -> detections of each image, in fp32."""
        x = [at_least_fp32(level) for level in x]
        return super().predict(x, rpn_results_list, batch_data_samples, rescale)

    def predict_bbox(
        self,
        x: Sequence[Tensor],
        batch_img_metas: list[dict],
        rpn_results_list: Sequence[InstanceData],
        rcnn_test_cfg: Any,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Detections of each image.

        The image head has no background class; its scores are the geometric mean with the objectness of the
        proposal.
        """
        proposals = [one.bboxes for one in rpn_results_list]
        rois = bbox2roi(proposals)
        if not len(rois):
            return empty_instances(
                batch_img_metas, rois.device, task_type='bbox', num_classes=self.bbox_head.num_classes
            )
        found = self._bbox_forward(x, rois)
        scores, deltas = found['cls_score'], found['bbox_pred']
        if self.bbox_head.variant == 'image':
            objectness = torch.cat([one.scores for one in rpn_results_list])  # (R,)
            scores = (scores * objectness[:, None]).sqrt()
        counts = [len(one) for one in proposals]
        return self.bbox_head.predict_by_feat(
            rois.split(counts),
            scores.split(counts),
            deltas.split(counts),
            batch_img_metas=batch_img_metas,
            rcnn_test_cfg=rcnn_test_cfg,
            rescale=rescale,
        )

    def predict_mask(
        self,
        x: Sequence[Tensor],
        batch_img_metas: list[dict],
        results_list: list[InstanceData],
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Masks of each image, of the size of the image; none, with a warning, if they are too large."""
        sizes = [meta['ori_shape'][:2] for meta in batch_img_metas]
        if masks_fit([len(one) for one in results_list], sizes):
            return super().predict_mask(x, batch_img_metas, results_list, rescale)
        for one, meta in zip(results_list, batch_img_metas, strict=True):
            if rescale:  # with masks, mmdet leaves this to the mask head
                one.bboxes = one.bboxes / one.bboxes.new_tensor(meta['scale_factor']).repeat(2)
        return results_list

    def _mask_forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As mmdet's; logits of masks in fp32."""
        found = super()._mask_forward(*args, **kwargs)
        return {**found, 'mask_preds': at_least_fp32(found['mask_preds'])}

    def _sample(self, proposals: InstanceData, truth: InstanceData, ignored: InstanceData) -> SamplingResult:
        """Sample regions of one image, a quarter of them objects, and assign their targets."""
        priors = InstanceData(priors=proposals.bboxes)
        assigned = self.bbox_assigner.assign(priors, truth, ignored)
        return self.bbox_sampler.sample(assigned, priors, truth)

    def _stored(self, samples: Sequence[DetDataSample], rois: Tensor) -> tuple[Tensor, Tensor]:
        """(S, 5) and (S, D) of all images; empty if nothing is distilled.

        The image branch of the ensemble processes only these regions, and batch norm needs at least two.
        """
        width = self.bbox_head.embed_dim
        nothing = InstanceData(bboxes=rois.new_zeros(0, 4), embeddings=rois.new_zeros(0, width))
        regions = [one.get('regions', nothing) for one in samples]
        least = 2 if self.bbox_head.variant == 'ensemble' else 1
        wanted = self.bbox_head.learns_from_teacher and self.distill_weight
        if not wanted or sum(map(len, regions)) < least:
            regions = [nothing] * len(regions)
        stored = bbox2roi([one.bboxes.to(rois) for one in regions])
        return stored, torch.cat([one.embeddings.to(rois) for one in regions])

    def _head_losses(
        self,
        features: Tensor,
        rois: Tensor,
        stored: Tensor,
        teacher: Tensor,
        sampled: Sequence[SamplingResult],
    ) -> dict[str, Tensor]:
        head, count = self.bbox_head, len(rois)
        # Ensemble: the text branch uses the sampled regions only, the image branch the stored ones only.
        shared = features[:count] if head.variant == 'ensemble' else features
        trunk = head.trunk(shared)  # (R, C), or (R + S, C)
        scores, deltas = head.training_logits(trunk[:count]), head.fc_reg(trunk[:count])
        losses = head.loss_and_target(scores, deltas, rois, sampled, self.train_cfg)['loss_bbox']
        if len(stored) or head.learns_from_teacher:
            rest = None if head.variant == 'ensemble' else trunk[count:]
            embeddings = head.distilled(features[count:], rest)  # (S, D)
            loss = distillation_loss(embeddings, teacher, valid_regions(stored[:, 1:]))
            losses['loss_distill'] = self.distill_weight * loss
        return losses
