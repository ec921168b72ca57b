"""ViLD as a graph for export.

R: proposals, (H, W): pixels of the network's input, C: channels, D: joint space, K: classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.structures.bbox import bbox2roi
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from clipdense.clip.graphs import Graph, GraphInput, class_input, unit_rows

from .detector import ViLD
from .functional import class_probabilities, ensemble, region_logits
from .predictor import ViLDPredictor

_SIZE = 320  # pixels of the images if no size is asked for
_WHY = 'anchors, and the number of proposals of each level, depend on it'
_REJECTED = -1.0  # below every objectness


class ViLDGraph(nn.Module):
    """(1, 3, H, W), (K, D) -> boxes (R, 4), probabilities (R, K), objectness (R,).

    The suppression of overlapping proposals is inside.  There are always R proposals; those that mmdet would
    not keep have probabilities of 0.

    Args:
        model: the detector.
    """

    def __init__(self, model: ViLD) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, class_embeddings: Tensor, novel: Tensor | None = None) -> Any:
        model = self.model
        size = (int(images.shape[-2]), int(images.shape[-1]))
        levels = model.extract_feat(images)
        proposals, objectness = self._propose(levels, size)  # (R, 4), (R,)
        features = self._pool(levels, bbox2roi([proposals]))
        head = model.roi_head.bbox_head
        trunk = head.trunk(features)  # (R, C)
        scores = self._probabilities(features, trunk, unit_rows(class_embeddings), novel)  # (R, K)
        if head.variant == 'image':
            scores = (scores * objectness.clamp(min=0)[:, None]).sqrt()
        boxes = head.bbox_coder.decode(proposals, head.fc_reg(trunk), max_shape=size)
        return boxes, scores * (objectness > _REJECTED)[:, None], objectness

    def _propose(self, levels: Sequence[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The R proposals with the highest objectness that remain after the suppression in each level."""
        head, rules = self.model.rpn_head, self.model.test_cfg.rpn
        outputs = head(levels)
        grids = [(int(one.shape[-2]), int(one.shape[-1])) for one in outputs[0]]
        anchors = head.prior_generator.grid_priors(grids, device=levels[0].device)
        boxes, scores, places = [], [], []
        for place, (logit, delta, prior) in enumerate(zip(*outputs, anchors, strict=True)):
            score = logit[0].permute(1, 2, 0).reshape(-1).sigmoid()
            delta = delta[0].permute(1, 2, 0).reshape(-1, 4)
            if 0 < rules.get('nms_pre', -1) < score.shape[0]:
                score, best = score.topk(rules.nms_pre)
                delta, prior = delta[best], prior[best]
            boxes.append(head.bbox_coder.decode(prior, delta, max_shape=size))
            scores.append(score)
            places.append(torch.full_like(score, place))
        box, score, level = torch.cat(boxes), torch.cat(scores), torch.cat(places)
        least = rules.get('min_bbox_size', -1)
        large = ((box[:, 2:] - box[:, :2]) > least).all(dim=1)
        score = torch.where(large, score, torch.full_like(score, _REJECTED))
        apart = level[:, None] * (max(size) + 1.0)  # boxes of other levels do not overlap
        kept = nms(box + apart, score, rules.nms.iou_threshold)
        remains = torch.zeros_like(score).index_fill(0, kept, 1.0)
        score = torch.where(remains > 0, score, torch.full_like(score, _REJECTED))
        score, best = score.topk(min(rules.max_per_img, score.shape[0]))
        return box[best], score

    def _pool(self, levels: Sequence[Tensor], rois: Tensor) -> Tensor:
        """RoI features (R, C, h, w).  Each region is pooled from every level, and its own is taken."""
        extractor = self.model.roi_head.bbox_roi_extractor
        count = extractor.num_inputs
        own = extractor.map_roi_levels(rois, count)  # (R,)
        total: Any = 0.0
        for place, (level, layer) in enumerate(zip(levels[:count], extractor.roi_layers, strict=True)):
            pooled = torch.ops.torchvision.roi_align(
                level,
                rois,
                layer.spatial_scale,
                *layer.output_size,
                layer.sampling_ratio,
                layer.aligned,
            )
            total = total + pooled * (own == place).to(pooled.dtype)[:, None, None, None]
        return total

    def _probabilities(self, features: Tensor, trunk: Tensor, text: Tensor, novel: Tensor | None) -> Tensor:
        """(R, K)."""
        head = self.model.roi_head.bbox_head
        logits = region_logits(head.projection(trunk), text, head.background, head.test_temperature)
        if head.variant == 'image':
            return logits[:, :-1].softmax(dim=-1)
        probabilities = class_probabilities(logits)
        if novel is None:
            return probabilities
        embeddings = F.normalize(head.distilled(features), dim=-1)
        image = (embeddings @ text.mT / head.temperature).softmax(dim=-1)
        return ensemble(probabilities, image, novel > 0)


def graph(model: ViLD | ViLDPredictor) -> Graph:
    """A ViLD up to its final suppression; sizes of images are fixed."""
    detector, side = (model.model, model.image_size) if isinstance(model, ViLDPredictor) else (model, None)
    head, prepare = detector.roi_head.bbox_head, detector.data_preprocessor
    rules = detector.roi_head.test_cfg
    inputs = {
        'images': GraphInput(('batch', 3, 'height', 'width')),
        'class_embeddings': class_input(head.embed_dim),
    }
    if head.variant == 'ensemble':
        inputs['novel'] = GraphInput(('classes',), lambda shape, generator: torch.ones(shape))
    divisor = int(getattr(prepare, 'pad_size_divisor', 1))
    return Graph(
        part='detector',
        module=ViLDGraph(detector),
        inputs=inputs,
        outputs={
            'boxes': '(regions, 4), x1 y1 x2 y2 in pixels of the input',
            'scores': '(regions, classes), probabilities; 0 for regions that are suppressed',
            'objectness': '(regions,), of the proposals; -1 for those that are suppressed',
        },
        sizes={'batch': 1, 'height': side or _SIZE, 'width': side or _SIZE, 'classes': 7},
        smallest={'height': divisor, 'width': divisor},
        fixed={'batch': 'one image', 'height': _WHY, 'width': _WHY},
        facts={
            'method': 'vild',
            'preprocess': {
                'mean': [float(x) / 255 for x in prepare.mean.flatten()],
                'std': [float(x) / 255 for x in prepare.std.flatten()],
                'interpolation': 'bilinear',
            },
            'variant': head.variant,
            'embed_dim': head.embed_dim,
            'score_threshold': float(rules.score_thr),
            'iou_threshold': float(rules.nms.iou_threshold),
            'max_detections': int(rules.max_per_img),
            'left_outside': 'the score threshold, the suppression of overlapping boxes of a class, and masks',
        },
        source=detector,
    )
