"""``groupvit_scenes`` with a place for what no caption names: a background embedding that is learned.

    clipdense train contrastive/clip_scenes
    clipdense train groupvit/groupvit_background_scenes

Cost: 180 to 220 CPU-seconds in one thread after the CLIP.
Score: seeds 0, 1, 2, mIoU with background, own names: 0.316, 0.356, 0.214 on base, 0.411, 0.419, 0.252 on
novel, 0.280, 0.348, 0.223 on unseen; oracle 0.55, 0.60, 0.53 on base, floor 0.28; zero-shot accuracy 0.845,
0.808, 0.842 on base.  From two other CLIPs, two seeds each: 0.220 and 0.200 on base; over all three CLIPs 2.0
times the mIoU of the CLIP itself on base, 1.7 on novel, 1.5 on unseen.  docs/research/learning_groupvit.md.
"""

from mmengine.config import read_base

from clipdense.engine.hooks import EvaluationHook

with read_base():
    from .._base_.default_runtime import *
    from .._base_.groupvit_scenes import *
    from .._base_.scenes_captions import *
    from .._base_.scenes_evaluation import *

model['clip']['size'].update(background=True)
model.update(background_weight=1.0)
train_dataloader['dataset'].update(tokenizer=noun_prompts)
optim_wrapper.update(clip_grad=dict(max_norm=5.0))
optim_wrapper['optimizer'].update(weight_decay=0.05)
param_scheduler.update(warmup=100)
custom_hooks = dict(
    evaluation=dict(type=EvaluationHook, interval=2000, evaluations=scene_evaluations),
    segmentation=dict(
        type=EvaluationHook, evaluations={**group_evaluations, **learned_evaluations}
    ),  # at the end only
)
