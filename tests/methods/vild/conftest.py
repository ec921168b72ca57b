"""A small detector: 64-pixel images, 16 channels, 8 numbers a region."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import normalize

from clipdense.methods.vild.bbox_head import ViLDBBoxHead
from clipdense.methods.vild.detector import ViLD
from clipdense.methods.vild.parts import (
    FPN,
    DetDataPreprocessor,
    FCNMaskHead,
    MaxIoUAssigner,
    RandomSampler,
    ResNet,
    RPNHead,
    SingleRoIExtractor,
)
from clipdense.methods.vild.roi_head import ViLDRoIHead
from clipdense.structures import ClassEmbeddings
from clipdense.vocab.vocabulary import Vocabulary

WIDTH, EMBED = 16, 8


def config(variant='vild', masks=False, **head):
    """Arguments of ``ViLD``."""
    extractor = dict(
        type=SingleRoIExtractor,
        roi_layer=dict(type='RoIAlign', output_size=4, sampling_ratio=2),
        out_channels=WIDTH,
        featmap_strides=[4, 8, 16],
    )
    trunk = dict(in_channels=WIDTH, conv_out_channels=WIDTH, fc_out_channels=32, roi_feat_size=4)
    assigner = dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)
    sampler = dict(type=RandomSampler, num=16, pos_fraction=0.25)
    anchors = dict(type='AnchorGenerator', scales=[4], ratios=[1.0], strides=[4, 8, 16])
    resnet = dict(depth=18, base_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1))
    roi_head = dict(
        type=ViLDRoIHead,
        bbox_roi_extractor=extractor,
        bbox_head=dict(type=ViLDBBoxHead, variant=variant, embed_dim=EMBED, **trunk, **head),
    )
    if masks:
        layer = dict(type='RoIAlign', output_size=8, sampling_ratio=2)
        mask_head = dict(in_channels=WIDTH, conv_out_channels=WIDTH, num_convs=1, num_classes=1)
        roi_head |= dict(
            mask_roi_extractor={**extractor, 'roi_layer': layer},
            mask_head=dict(type=FCNMaskHead, class_agnostic=True, **mask_head),
        )
    proposals = dict(nms_pre=100, max_per_img=20, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0)
    train_rcnn = dict(assigner=assigner, sampler=sampler, mask_size=16, pos_weight=-1)
    return dict(
        backbone=dict(type=ResNet, **resnet, out_indices=(0, 1, 2)),
        neck=dict(type=FPN, in_channels=[8, 16, 32], out_channels=WIDTH, num_outs=3),
        rpn_head=dict(
            type=RPNHead,
            in_channels=WIDTH,
            feat_channels=WIDTH,
            anchor_generator=anchors,
        ),
        roi_head=roi_head,
        train_cfg=dict(
            rpn=dict(
                assigner=assigner,
                sampler={**sampler, 'add_gt_as_proposals': False},
                allowed_border=-1,
                pos_weight=-1,
            ),
            rpn_proposal=proposals,
            rcnn=train_rcnn,
        ),
        test_cfg=dict(
            rpn=proposals,
            rcnn=dict(score_thr=0.0, nms=dict(iou_threshold=0.5), max_per_img=10, mask_thr_binary=0.5),
        ),
        data_preprocessor=dict(
            type=DetDataPreprocessor, mean=[127.0] * 3, std=[60.0] * 3, pad_size_divisor=16
        ),
    )


def words(names=('cat', 'dog', 'cow'), novel=('cow',)):
    """A vocabulary and its embeddings."""
    vocabulary = Vocabulary(tuple(names), novel=frozenset(novel))
    queries = normalize(torch.randn(len(names), EMBED), dim=-1)
    return vocabulary, ClassEmbeddings(queries, torch.arange(len(names)), len(names))


def build(variant='vild', masks=False, frozen=(), vocabulary=None, **head):
    """A detector with three words."""
    torch.manual_seed(0)
    model = ViLD(**config(variant, masks, **head), frozen=frozen)
    model.set_vocabulary(*(vocabulary or words()))
    return model


@pytest.fixture
def tiny():
    """``tiny.build('ensemble')``, ``tiny.config()``, ``tiny.words(names, novel)``."""
    return SimpleNamespace(build=build, config=config, words=words)
