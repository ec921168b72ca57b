"""ViLD's box head: region embeddings compared with class embeddings.

R: regions, C: width, D: joint space, K: classes, Q: queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.structures.bbox import scale_boxes
from mmengine.structures import InstanceData
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32, no_autocast
from clipdense.registry import MODELS
from clipdense.structures import best_of_queries
from clipdense.tasks.adapters import Adapter
from clipdense.tasks.detection import select_detections
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .functional import class_probabilities, ensemble, mask_novel, region_logits

Variant = Literal['text', 'image', 'vild', 'ensemble']


@MODELS.register_module()
class ViLDBBoxHead(ConvFCBBoxHead):
    """Shared layers, class-agnostic box regression, and classification by cosines with class embeddings.

    Args:
        variant: 'text' is trained on labeled boxes only, 'image' on the teacher only, 'vild' on both with one
            embedding, 'ensemble' on both with a branch each.
        embed_dim: D.
        temperature: divisor of the cosines, in training and at test.
        test_temperature: temperature of the text head at test, if different (DetPro: 0.007).
        fc_norm: batch norm after the fully connected layers too, as in the official code.
        trunk: arguments of mmdet's ``ConvFCBBoxHead``; 4 convolutions and 2 linear layers by default.

    Raises:
        InputError: an unknown variant.
    """

    queries: Tensor
    query_class: Tensor
    novel: Tensor
    adapter: Adapter | None
    names: Any

    def __init__(
        self,
        variant: Variant = 'vild',
        embed_dim: int = 512,
        temperature: float = 0.01,
        test_temperature: float | None = None,
        fc_norm: bool = False,
        **trunk: Any,
    ) -> None:
        defaults = {'num_shared_convs': 4, 'num_shared_fcs': 2, 'num_classes': 1, 'reg_class_agnostic': True}
        super().__init__(**{**defaults, **trunk, 'with_cls': False})
        if variant not in ('text', 'image', 'vild', 'ensemble'):
            raise InputError(f"variant must be 'text', 'image', 'vild' or 'ensemble', got {variant!r}")
        self.variant, self.embed_dim = variant, embed_dim
        self.temperature, self.test_temperature = temperature, test_temperature or temperature
        width = self.shared_out_channels
        if fc_norm:
            self.shared_fcs: nn.ModuleList = _normalized(list(self.shared_fcs), self.norm_cfg)
        self.projection = nn.Linear(width, embed_dim)
        self.background = nn.Parameter(torch.randn(embed_dim) * 0.01)
        if variant == 'ensemble':
            convs, fcs, _ = self._add_conv_fc_branch(
                self.num_shared_convs, self.num_shared_fcs, self.in_channels, True
            )
            self.image_convs, self.image_fcs = (
                convs,
                _normalized(list(fcs), self.norm_cfg) if fc_norm else fcs,
            )
            self.image_projection = nn.Linear(width, embed_dim)
        self.init_cfg = [  # as in mmdet, for layers under other names
            {'type': 'Xavier', 'distribution': 'uniform', 'layer': 'Linear'},
            {'type': 'Normal', 'std': 0.001, 'override': {'name': 'fc_reg'}},
        ]
        for name in ('queries', 'query_class', 'novel'):
            self.register_buffer(name, None, persistent=False)
        self.set_adapter(None, None)

    @property
    def learns_from_teacher(self) -> bool:
        """Whether region embeddings are distilled."""
        return self.variant != 'text'

    @property
    def learns_from_names(self) -> bool:
        """Whether regions are classified in training."""
        return self.variant != 'image'

    def set_vocabulary(self, queries: Tensor, query_class: Tensor, novel: Tensor) -> None:
        """Set the vocabulary: (Q, D) unit rows, (Q,) class of each query, (K,) whether a class is novel.

        Raises:
            InputError: embeddings of another dimension than D.
        """
        if queries.shape[-1] != self.embed_dim:
            raise InputError(
                f'class embeddings have dimension {queries.shape[-1]}, region embeddings {self.embed_dim}: '
                'use the text tower of the CLIP that the detector was trained with'
            )
        device = self.background.device
        self.queries, self.query_class = queries.to(device), query_class.to(device)
        self.novel = novel.to(device)
        self.num_classes = len(novel)

    def set_adapter(self, adapter: Adapter | None, vocabulary: Vocabulary | None) -> None:
        """Set or remove what changes region embeddings and class scores; it is not part of the state dict."""
        self.__dict__['adapter'], self.__dict__['names'] = adapter, vocabulary

    def embed(self, features: Tensor) -> Tensor:
        """RoI features -> unit embeddings (R, D) of the branch that is compared with class embeddings."""
        return F.normalize(at_least_fp32(self.projection(self.trunk(features))), dim=-1)

    def trunk(self, features: Tensor) -> Tensor:
        """RoI features -> (R, C)."""
        return self._through(self.shared_convs, self.shared_fcs, features)

    def distilled(self, features: Tensor, trunk: Tensor | None = None) -> Tensor:
        """RoI features -> (R, D), the embeddings that are compared with the teacher's.

        Args:
            features: RoI features.
            trunk: ``trunk(features)``, if already computed.
        """
        if self.variant == 'ensemble':
            return self.image_projection(self._through(self.image_convs, self.image_fcs, features))
        return self.projection(self.trunk(features) if trunk is None else trunk)

    def logits(self, trunk: Tensor, temperature: float) -> Tensor:
        """(R, C) -> (R, K + 1), background last.

        Raises:
            InputError: no vocabulary has been set.
        """
        if self.queries is None:
            raise InputError('no vocabulary is set: call set_vocabulary(vocabulary, embeddings) first')
        embeddings = self.projection(trunk)  # (R, D)
        with no_autocast(trunk.device):
            if self.adapter is not None:
                embeddings = self.adapter.adapt_embeddings(F.normalize(at_least_fp32(embeddings), dim=-1))
            logits = region_logits(embeddings, self.queries, self.background, temperature)
            best = best_of_queries(logits[:, :-1], self.query_class, self.num_classes)
            added = None if self.adapter is None else self.adapter.scores(embeddings, self.names)
        return torch.cat([best if added is None else best + added, logits[:, -1:]], dim=1)

    def forward(self, features: Tensor) -> tuple[Tensor | None, Tensor]:
        """RoI features -> training logits (R, K + 1), or probabilities (R, K); and box deltas (R, 4)."""
        trunk = self.trunk(features)  # (R, C)
        deltas = at_least_fp32(self.fc_reg(trunk))  # (R, 4)
        if not self.training:
            return self.probabilities(features, trunk), deltas
        return self.training_logits(trunk), deltas

    def training_logits(self, trunk: Tensor) -> Tensor | None:
        """(R, C) -> (R, K + 1) without novel classes; None if regions are not classified in training."""
        if not self.learns_from_names:
            return None
        return mask_novel(self.logits(trunk, self.temperature), self.novel)

    def probabilities(self, features: Tensor, trunk: Tensor) -> Tensor:
        """RoI features and (R, C) -> (R, K)."""
        if self.variant == 'image':
            return self.logits(trunk, self.test_temperature)[:, :-1].softmax(dim=-1)
        text = class_probabilities(self.logits(trunk, self.test_temperature))
        if self.variant != 'ensemble':
            return text
        embeddings = self.distilled(features)
        with no_autocast(features.device):
            embeddings = F.normalize(at_least_fp32(embeddings), dim=-1)  # (R, D)
            asked = embeddings @ self.queries.mT / self.temperature  # (R, Q)
        image = best_of_queries(asked, self.query_class, self.num_classes).softmax(dim=-1)
        return ensemble(text, image, self.novel)

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        img_meta: Mapping[str, Any],
        rescale: bool = False,
        rcnn_test_cfg: Any = None,
    ) -> InstanceData:
        """Probabilities (R, K) and deltas (R, 4) of one image -> its detections."""
        boxes = self.bbox_coder.decode(roi[:, 1:], bbox_pred, max_shape=img_meta['img_shape'])  # (R, 4)
        if rescale:
            boxes = scale_boxes(boxes, [1 / factor for factor in img_meta['scale_factor']])
        found = select_detections(
            boxes,
            cls_score,
            score_threshold=rcnn_test_cfg.score_thr,
            iou_threshold=rcnn_test_cfg.nms.iou_threshold,
            class_agnostic=rcnn_test_cfg.nms.get('class_agnostic', False),
            max_detections=rcnn_test_cfg.max_per_img,
        )
        return InstanceData(bboxes=found.xyxy, scores=found.confidence, labels=found.class_ids)

    def _through(self, convs: nn.ModuleList, fcs: nn.ModuleList, x: Tensor) -> Tensor:
        for conv in convs:
            x = conv(x)
        x = (self.avg_pool(x) if self.with_avg_pool else x).flatten(1)
        for fc in fcs:
            x = self.relu(fc(x))
        return x


def _normalized(fcs: Sequence[Any], norm_cfg: Mapping[str, Any] | None) -> nn.ModuleList:
    """Each layer followed by a batch norm, with type and settings of ``norm_cfg``."""
    settings = {key: value for key, value in (norm_cfg or {}).items() if key in ('eps', 'momentum')}
    kind = nn.SyncBatchNorm if (norm_cfg or {}).get('type') == 'SyncBN' else nn.BatchNorm1d
    layers = nn.ModuleList()
    for fc in fcs:
        width, inside = fc.weight.shape
        layers.append(nn.Sequential(nn.Linear(inside, width, bias=False), kind(width, **settings)))
    return layers
