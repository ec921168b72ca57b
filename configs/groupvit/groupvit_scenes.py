"""A small GroupViT, one grouping stage, pre-trained on the captions of scenes: segmentation from text alone.

    clipdense scenes data/scenes_long --train 60000
    clipdense train contrastive/clip_scenes
    clipdense train groupvit/groupvit_scenes

It stops and goes on where it stopped: add --resume.  The losses are the released ones, but for phrases that
several captions of a batch have: they are right for all of them.  What it starts from is not: see
``GroupVitPretrainer(start=...)`` and ``GroupVitEncoder(spread=...)``.

Cost: 180 to 220 CPU-seconds in one thread after the CLIP.
Score: seeds 0, 1, 2, mIoU with background, own names: 0.067, 0.115, 0.111 on base, 0.106, 0.125, 0.093 on
novel, 0.114, 0.122, 0.079 on unseen; oracle 0.41, 0.50, 0.43 above a floor of 0.24 to 0.26 on base; zero-shot
accuracy 0.845, 0.827, 0.836 on base.  groupvit_background_scenes has three times that mIoU.
docs/research/learning_groupvit.md.
"""

from mmengine.config import read_base

from clipdense.engine.hooks import EvaluationHook

with read_base():
    from .._base_.default_runtime import *
    from .._base_.groupvit_scenes import *
    from .._base_.scenes_captions import *
    from .._base_.scenes_evaluation import *

train_dataloader['dataset'].update(tokenizer=noun_prompts)
optim_wrapper.update(clip_grad=dict(max_norm=5.0))
optim_wrapper['optimizer'].update(weight_decay=0.05)
param_scheduler.update(warmup=100)
custom_hooks = dict(
    evaluation=dict(type=EvaluationHook, interval=2000, evaluations=scene_evaluations),
    segmentation=dict(type=EvaluationHook, evaluations=group_evaluations),  # at the end only
)
