"""The published detector: Mask R-CNN with FPN, 4 convolutions and 2 layers in the box head, boxes and masks
for all classes alike, synchronized batch norm.  Configs choose the backbone, the data and the schedule.
"""

from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.engine.hooks import VocabularyHook
from clipdense.methods.vild.bbox_head import ViLDBBoxHead
from clipdense.methods.vild.detector import ViLD
from clipdense.methods.vild.parts import (
    FPN,
    AnchorGenerator,
    DetDataPreprocessor,
    FCNMaskHead,
    MaxIoUAssigner,
    RandomSampler,
    ResNet,
    RPNHead,
    SingleRoIExtractor,
    SmoothL1Loss,
)
from clipdense.methods.vild.roi_head import ViLDRoIHead

norm = dict(type='SyncBN', eps=1e-4, momentum=0.003)
nms = dict(type='nms', iou_threshold=0.7)
extractor = dict(
    type=SingleRoIExtractor,
    roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
    out_channels=256,
    featmap_strides=[4, 8, 16, 32],
)
assigner = dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)

model = dict(
    type=ViLD,
    clip='ViT-B-32/openai',
    data_preprocessor=dict(
        type=DetDataPreprocessor,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        pad_size_divisor=32,
        pad_mask=True,
    ),
    backbone=dict(type=ResNet, depth=50, norm_cfg=norm, norm_eval=False),
    neck=dict(type=FPN, in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5, norm_cfg=norm),
    rpn_head=dict(
        type=RPNHead,
        in_channels=256,
        feat_channels=256,
        num_convs=2,
        anchor_generator=dict(
            type=AnchorGenerator, scales=[8], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
        ),
        loss_bbox=dict(type=SmoothL1Loss, beta=1 / 9),
    ),
    roi_head=dict(
        type=ViLDRoIHead,
        distill_weight=0.5,
        bbox_roi_extractor=extractor,
        bbox_head=dict(
            type=ViLDBBoxHead,
            variant='vild',
            embed_dim=512,
            temperature=0.01,
            in_channels=256,
            norm_cfg=norm,
            fc_norm=True,
            loss_bbox=dict(type=SmoothL1Loss, beta=1.0),
        ),
        mask_roi_extractor=dict(
            type=SingleRoIExtractor,
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[4, 8, 16, 32],
        ),
        mask_head=dict(
            type=FCNMaskHead, num_convs=4, in_channels=256, num_classes=1, class_agnostic=True, norm_cfg=norm
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type=MaxIoUAssigner, pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True
            ),
            sampler=dict(type=RandomSampler, num=256, pos_fraction=0.5, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
        ),
        rpn_proposal=dict(nms_pre=2000, max_per_img=1000, nms=nms, min_bbox_size=0),
        rcnn=dict(
            assigner=assigner,
            sampler=dict(type=RandomSampler, num=512, pos_fraction=0.25),
            mask_size=28,
            pos_weight=-1,
        ),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000, nms=nms, min_bbox_size=0),
        rcnn=dict(
            score_thr=1e-4, nms=dict(type='nms', iou_threshold=0.5), max_per_img=300, mask_thr_binary=0.5
        ),
    ),
)
custom_hooks = dict(
    vocabulary=dict(type=VocabularyHook, embedder=dict(type=PromptEnsemble, templates='vild'))
)
