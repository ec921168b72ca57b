"""``groupvit_scenes`` with a place for what no caption names: a background embedding that is learned.

    clipdense scenes data/scenes_long --train 60000
    clipdense train groupvit/groupvit_background_scenes

Cost: about 0.35 CPU-seconds a step on 2 busy cores of an AMD EPYC (AVX2, fp32), the whole run is open.
Score: not measured.  What short trials gave is in docs/learning_groupvit.md.
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
