"""The small GLIP for scenes of 96 pixels and how it is trained and measured.

A ResNet-18 of a quarter of the width up to stride 16, an FPN of five levels from stride 8 and 32 channels, a
head of two blocks.  The text tower is that of a CLIP of scenes and stays as it is.  It is causal and was
trained on its last token: each name is encoded by itself and read through that token, which alone has read
all of it.
"""

from torch.optim import AdamW

from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.detection.metric import DetectionAP
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.head import GLIPHead
from clipdense.methods.glip.parts import FPN, DetDataPreprocessor, ResNet

teacher = 'work_dirs/clip_scenes/clip.safetensors'
width = 32

model = dict(
    type=GLIP,
    clip=teacher,
    data_preprocessor=dict(type=DetDataPreprocessor, mean=[127.5] * 3, std=[63.75] * 3, pad_size_divisor=32),
    backbone=dict(
        type=ResNet,
        depth=18,
        base_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(1, 2),
        norm_eval=False,
    ),
    neck=dict(
        type=FPN,
        in_channels=[32, 64],
        out_channels=width,
        num_outs=5,
        add_extra_convs='on_output',
        relu_before_extra_convs=True,
    ),
    head=dict(
        type=GLIPHead,
        size=dict(
            channels=width,
            depth=2,
            fusion_width=128,
            fusion_heads=4,
            language='clip',
            text_heads=4,
            text_mlp=192,
            groups=8,
            dropout=0.0,
            strides=(8, 16, 32, 64, 128),
            anchor_scale=4.0,
            log_scale=-2.5,
        ),
    ),
    frozen=('clip',),
    prompts=dict(shuffle=True, per_phrase=True, last_token=True, negatives=9),
    candidates=dict(threshold=1e-3, per_level=300),
    detection=dict(score_threshold=0.0, iou_threshold=0.5, max_detections=100),
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    optimizer=dict(type=AdamW, lr=2e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = dict(type=WarmupCosine, warmup=100)
test_cfg = dict()
test_evaluator = dict(type=DetectionAP)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook))
