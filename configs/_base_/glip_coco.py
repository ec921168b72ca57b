"""GLIP-T on COCO: mmdet's Swin, an FPN of five levels, BERT, images of 800 pixels, 24 epochs."""

from torch.optim import AdamW

from clipdense.clip.hf_text import HFTextTower
from clipdense.data.detection.datasets import CocoDetection
from clipdense.data.detection.transforms import RandomFlip, RandomResize, Resize
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.detection.metric import DetectionAP
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.head import GLIPHead
from clipdense.methods.glip.parts import FPN, DetDataPreprocessor, Swin
from clipdense.methods.glip.text import GroundingText

bert = dict(
    vocab_size=30522,
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    max_position_embeddings=512,
)
model = dict(
    type=GLIP,
    data_preprocessor=dict(  # BGR
        type=DetDataPreprocessor,
        mean=[103.53, 116.28, 123.675],
        std=[57.375, 57.12, 58.395],
        rgb_to_bgr=True,
        pad_size_divisor=32,
    ),
    backbone=dict(type=Swin, drop_path_rate=0.2, out_indices=(1, 2, 3)),
    neck=dict(
        type=FPN,
        in_channels=[192, 384, 768],
        out_channels=256,
        num_outs=5,
        add_extra_convs='on_output',
        relu_before_extra_convs=True,
    ),
    head=dict(type=GLIPHead, size=dict(text_width=768)),
    clip=dict(
        type=GroundingText,
        text=dict(
            type=HFTextTower,
            size=dict(
                model_type='bert',
                embed_dim=768,
                pooler='cls_last_hidden_state_pooler',
                context_length=256,
                options=bert,
            ),
        ),
    ),
    prompts=dict(max_names=40),
    detection=dict(score_threshold=0.0, iou_threshold=0.6, max_detections=100),
)
train_transforms = [
    dict(type=RandomResize, scale=[(1333, 480), (1333, 800)]),
    dict(type=RandomFlip, prob=0.5),
]
test_transforms = [dict(type=Resize, scale=(1333, 800), keep_ratio=True)]
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    optimizer=dict(type=AdamW, lr=1e-5, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=WarmupCosine, warmup=2000)
data_root = 'data/coco'
train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    dataset=dict(
        type=CocoDetection,
        annotations=f'{data_root}/annotations/instances_train2017.json',
        images=f'{data_root}/train2017',
        training=True,
        transforms=train_transforms,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(
        type=CocoDetection,
        annotations=f'{data_root}/annotations/instances_val2017.json',
        images=f'{data_root}/val2017',
        transforms=test_transforms,
    ),
)
train_cfg = dict(max_epochs=24)
test_cfg = dict()
test_evaluator = dict(type=DetectionAP, kinds=('bbox',))
custom_hooks = dict(vocabulary=dict(type=VocabularyHook))
