"""A small CLIP with a transformer, patch 4, pre-trained on the captions of scenes: the longer run beside
``clip_scenes_quickstart``.

    clipdense scenes data/scenes_long --train 60000
    clipdense train contrastive/clip_scenes

Cost: 51 CPU-minutes in one thread, and a little of a second core for reading; 47 minutes by its first ten
on a quiet AMD EPYC (AVX2, fp32, 320 images/s), 84 minutes as it ran, beside other jobs (load 2 to 6).
Score: seed 0, zero-shot accuracy on unseen combinations 0.841 among their own 16 names (chance 0.062),
0.562 among all 64; base 0.842 / 0.736, novel 0.864 / 0.725; training-free mIoU of base / novel / unseen by
maskclip 0.102 / 0.150 / 0.134 (chance 0.007 / 0.016 / 0.016).  Seeds 1 and 2: unseen 0.823 / 0.561 and
0.850 / 0.638, base 0.775 / 0.683 and 0.864 / 0.791, novel 0.881 / 0.694 and 0.905 / 0.772; maskclip
0.090 / 0.117 / 0.109 and 0.058 / 0.098 / 0.111.  How it came about: docs/research/learning_scenes.md.
"""

from mmengine.config import read_base

from clipdense.clip.model import build_clip
from clipdense.data.scenes import SceneSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer
from clipdense.methods.dense_clip.evaluation import ZeroShotSegmentation

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_captions import *
    from .._base_.scenes_evaluation import *

model = dict(
    type=ContrastivePretrainer,
    clip=dict(
        type=build_clip,
        size=dict(
            image=dict(
                image_size=32,
                patch_size=4,
                width=96,
                layers=4,
                num_heads=3,
                mlp_width=192,
                embed_dim=96,
                activation='gelu',
            ),
            text=dict(width=96, layers=2, num_heads=3, mlp_width=192, embed_dim=96, activation='gelu'),
        ),
    ),
)
train_cfg = dict(max_steps=14_000)
param_scheduler.update(warmup=300)
custom_hooks = dict(
    evaluation=dict(type=EvaluationHook, interval=2000, evaluations=scene_evaluations),
    segmentation=dict(  # at the end only
        type=EvaluationHook,
        evaluations={
            f'{method}/{split}': dict(
                type=ZeroShotSegmentation,
                dataset=dict(type=SceneSegmentation, split=split, num_images=num_val),
                method=method,
                slide=dict(),
                templates=templates,
                name=f'segmentation_{method}/{split}',
            )
            for method in ('vanilla', 'maskclip', 'maskclip_no_residual')
            for split in splits
        },
    ),
)
