"""``groupvit_scenes`` with a place for what no caption names: a background embedding that is learned.

    clipdense train contrastive/clip_scenes
    clipdense train groupvit/groupvit_background_scenes

Cost: 180 to 220 CPU-seconds in one thread after the CLIP.
Score: seeds 0, 1, 2, mIoU with background, own names: 0.316, 0.356, 0.214 on base, 0.411, 0.419, 0.252 on
novel, 0.280, 0.348, 0.223 on unseen; oracle 0.55, 0.60, 0.53 on base, floor 0.28; zero-shot accuracy 0.845,
0.808, 0.842 on base.  docs/learning_groupvit.md.
"""

from mmengine.config import read_base

from clipdense.data.scenes import SceneSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.methods.groupvit.evaluation import GroupSegmentation

with read_base():
    from .._base_.default_runtime import *
    from .._base_.groupvit_scenes import *
    from .._base_.scenes_evaluation import *

model['clip']['size']['background'] = True
model['background_weight'] = 1.0
custom_hooks = [
    dict(type=EvaluationHook, interval=2000, evaluations=[*scene_evaluations]),
    dict(  # at the end only
        type=EvaluationHook,
        evaluations=[
            dict(
                type=GroupSegmentation,
                dataset=dict(type=SceneSegmentation, split=split, num_pictures=num_val),
                threshold=threshold,
                tuning=dict(type=SceneSegmentation, split='base', num_pictures=num_val, stream='tuning'),
                slide=dict(),
                templates=templates,
                name=f'{name}/{split}',
            )
            for name, threshold in (('segmentation', 'shared'), ('automatic', 'automatic'), ('learned', None))
            for split in splits
        ],
    ),
]
