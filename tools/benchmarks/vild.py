"""Detecting with words: ViLD's inference against mmdet's Mask R-CNN."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.config import load_config
from clipdense.methods.vild.bbox_head import ViLDBBoxHead
from clipdense.methods.vild.detector import ViLD
from clipdense.registry import build_module
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary

from .harness import Found, Options, Row, interleave, steady_clock

CLASSES = (80, 1203)
SIDE, PROPOSALS, DETECTIONS = 320, 300, 100


def vild(options: Options) -> Found:
    """Inference against mmdet's Mask R-CNN of the same backbone and head shape, 80 and 1,203 classes."""
    torch.manual_seed(0)
    rows, notes = [], {}
    image = torch.randn(1, 3, SIDE, SIDE, device=options.device)
    clock = steady_clock(options.device)
    for count in CLASSES:
        ours, peer = detector(count, options), mask_rcnn(count, options, head='same')
        peaked_alike(peer, image)
        found = [len(run(model, image)()) for model in (ours, peer)]
        if found != [DETECTIONS] * 2:
            raise SystemExit(
                f'ours and peer detect {found}, not {DETECTIONS} each: masks cost what they find'
            )
        times = interleave(run(ours, image), run(peer, image), options)
        rows += [
            Row(f'{count} classes{label}', *(median(getattr(side, name)) for side in times), 's')
            for name, label in ((clock, ''), ('wall', ', wall'))
        ]
        stock = mask_rcnn(count, options, head='stock')
        peaked_alike(stock, image)
        alone, _ = interleave(run(stock, image), lambda: None, options)
        notes[f"mmdet's stock head, {count} classes"] = f'{median(getattr(alone, clock)):.3g} s'
    notes |= {'pixels': f'{SIDE} x {SIDE}', 'proposals': PROPOSALS, 'detections with masks': DETECTIONS}
    return rows, notes


def detector(count: int, options: Options) -> ViLD:
    """The published ResNet-50 detector with random weights and words."""
    cfg = load_config('vild/vild_lvis').model
    cfg.clip = None
    shared_settings(cfg)
    model = build_module(cfg)
    words = Vocabulary(tuple(f'class {index}' for index in range(count)))
    embeddings = F.normalize(torch.randn(count, 512), dim=-1)
    model.set_vocabulary(words, ClassEmbeddings(embeddings, torch.arange(count), count))
    return model.eval().to(options.device)


def mask_rcnn(count: int, options: Options, head: str) -> Any:
    """mmdet's, with our convolutions and layers in its box head ('same') or with its own ('stock')."""
    from mmdet.models import ConvFCBBoxHead, MaskRCNN, Shared2FCBBoxHead, StandardRoIHead
    from mmdet.registry import MODELS

    cfg = load_config('vild/vild_lvis').model
    shared_settings(cfg)
    cfg.pop('clip')
    cfg.type, cfg.roi_head.type = MaskRCNN, StandardRoIHead
    cfg.roi_head.pop('distill_weight')
    box_head = cfg.roi_head.bbox_head
    assert box_head.type is ViLDBBoxHead
    for name in ('variant', 'embed_dim', 'temperature', 'fc_norm'):
        box_head.pop(name)
    box_head.num_classes = count
    if head == 'same':
        box_head.update(type=ConvFCBBoxHead, num_shared_convs=4, num_shared_fcs=2, reg_class_agnostic=True)
    else:
        box_head.update(type=Shared2FCBBoxHead, norm_cfg=None)
        cfg.roi_head.mask_head.update(num_classes=count, class_agnostic=False)
    model = MODELS.build(cfg)
    return model.eval().to(options.device)


def shared_settings(cfg: Any) -> None:
    """What both sides do alike: proposals, thresholds, numbers of detections."""
    cfg.test_cfg.rpn.max_per_img = PROPOSALS
    cfg.test_cfg.rcnn.score_thr, cfg.test_cfg.rcnn.max_per_img = 1e-3, DETECTIONS


@torch.no_grad()
def peaked_alike(model: Any, image: Tensor) -> None:
    """Scale the peer's logits to the spread of cosines, so that as many scores pass the threshold."""
    layer: nn.Linear = model.roi_head.bbox_head.fc_cls
    seen: list[Tensor] = []
    hook = layer.register_forward_hook(lambda *call: seen.append(call[2]))
    run(model, image)()
    hook.remove()
    layer.weight.mul_(1 / (0.01 * 512**0.5) / seen[0].std())


def run(model: Any, image: Tensor) -> Callable[[], Any]:
    """One image through the model, to the detections."""
    from mmdet.structures import DetDataSample

    meta = {'img_shape': (SIDE, SIDE), 'ori_shape': (SIDE, SIDE), 'scale_factor': (1.0, 1.0)}

    @torch.no_grad()
    def once() -> Any:
        sample = DetDataSample(metainfo={**meta, 'pad_shape': meta['img_shape']})
        sample.set_metainfo({'batch_input_shape': meta['img_shape']})
        return model.predict(image, [sample])[0].pred_instances

    return once
