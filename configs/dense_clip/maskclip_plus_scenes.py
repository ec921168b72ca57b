"""MaskCLIP+ on scenes: a small residual network learns a training-free segmenter's masks; no label is used.

    clipdense train contrastive/clip_scenes
    clipdense train contrastive/clip_phrases_scenes
    clipdense train dense_clip/maskclip_plus_scenes
    clipdense test dense_clip/maskclip_plus_scenes CHECKPOINT -o test_dataloader.dataset.split=novel

Cost: 0.3 CPU-seconds a step, so about 5 CPU-minutes; the whole run has not been made.
Score: not measured.  Its teacher, the best of the table in docs/dense_clip_scenes.md, has 0.318 mIoU on base and
0.457 on novel combinations (100 pictures each, own names and the word "background").
With the teacher ``sc_clip`` on the CLIP without phrases (0.174 and 0.266), a trial of 110 steps gave 0.046
and 0.068.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.data.scenes import SceneSegmentation
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.mean_iou import MeanIoU
from clipdense.methods.dense_clip.maskclip_plus import MaskCLIPPlus, PyramidStudent
from clipdense.methods.dense_clip.segmenter import DenseCLIP

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_evaluation import *

default_hooks.update(export=None)  # the CLIP is its teacher's
model = dict(
    type=MaskCLIPPlus,
    teacher=dict(
        type=DenseCLIP,
        clip='work_dirs/clip_phrases_scenes/clip.safetensors',
        recipe='maskclip_no_residual',
        slide=dict(),
    ),
    student=dict(type=PyramidStudent, name='resnet10t', embed_dim=96),
    guided_steps=800,
    logit_scale=20.0,
)
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        type=SceneSegmentation,
        split='base',
        unlabelled=('novel',),
        all_names=True,
        num_pictures=20_000,
        stream='train',
    ),
)
train_cfg = dict(max_steps=1000)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05),
)
param_scheduler = [dict(type=WarmupCosine, warmup=50)]
test_dataloader = dict(
    batch_size=16,
    num_workers=0,
    dataset=dict(type=SceneSegmentation, split='base', num_pictures=num_val),
)
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = [dict(type=VocabularyHook, templates=templates)]
