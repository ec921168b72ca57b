"""The small detector for scenes of 96 pixels and how it is trained and measured.

A ResNet-18 of a quarter of the width up to stride 16, an FPN of 32 channels, 64 regions an image.
"""

from torch.optim import AdamW

from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.detection.metric import DetectionAP
from clipdense.methods.vild.bbox_head import ViLDBBoxHead
from clipdense.methods.vild.detector import ViLD
from clipdense.methods.vild.parts import (
    FPN,
    AnchorGenerator,
    DetDataPreprocessor,
    MaxIoUAssigner,
    RandomSampler,
    ResNet,
    RPNHead,
    SingleRoIExtractor,
)
from clipdense.methods.vild.roi_head import ViLDRoIHead

teacher = 'work_dirs/clip_scenes/clip.safetensors'
templates = ('a {}', 'a picture of a {}')
width, proposals = 32, 64
nms = dict(type='nms', iou_threshold=0.7)
assigner = dict(type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5)

model = dict(
    type=ViLD,
    clip=teacher,
    # Twice the coarsest stride: mmdet's RPN fails where a level is a single anchor.
    data_preprocessor=dict(type=DetDataPreprocessor, mean=[127.5] * 3, std=[63.75] * 3, pad_size_divisor=32),
    backbone=dict(
        type=ResNet,
        depth=18,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        norm_eval=False,
    ),
    neck=dict(type=FPN, in_channels=[16, 32, 64], out_channels=width, num_outs=3),
    rpn_head=dict(
        type=RPNHead,
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(type=AnchorGenerator, scales=[3], ratios=[1.0], strides=[4, 8, 16]),
    ),
    roi_head=dict(
        type=ViLDRoIHead,
        distill_weight=1.0,
        bbox_roi_extractor=dict(
            type=SingleRoIExtractor,
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2),
            out_channels=width,
            featmap_strides=[4, 8, 16],
        ),
        bbox_head=dict(
            type=ViLDBBoxHead,
            variant='vild',
            embed_dim=96,
            temperature=0.02,
            num_shared_convs=2,
            in_channels=width,
            conv_out_channels=width,
            fc_out_channels=256,
            norm_cfg=dict(type='BN'),
            fc_norm=True,
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type=MaxIoUAssigner, pos_iou_thr=0.6, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True
            ),
            sampler=dict(type=RandomSampler, num=64, pos_fraction=0.5, add_gt_as_proposals=False),
            allowed_border=-1,
            pos_weight=-1,
        ),
        rpn_proposal=dict(nms_pre=300, max_per_img=proposals, nms=nms, min_bbox_size=4),
        rcnn=dict(
            assigner=assigner,
            sampler=dict(type=RandomSampler, num=proposals, pos_fraction=0.25),
            pos_weight=-1,
        ),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=300, max_per_img=proposals, nms=nms, min_bbox_size=4),
        rcnn=dict(score_thr=1e-4, nms=dict(type='nms', iou_threshold=0.5), max_per_img=100),
    ),
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = dict(type=WarmupCosine, warmup=100)
test_cfg = dict()
test_evaluator = dict(type=DetectionAP)
custom_hooks = dict(
    vocabulary=dict(type=VocabularyHook, embedder=dict(type=PromptEnsemble, templates=templates))
)
