"""The open-vocabulary DenseCLIP on scenes, with the small CLIP of the quickstart.

    clipdense quickstart --out quickstart
    clipdense train denseclip/denseclip_scenes

Cost: not known yet.
Score: not known yet.

Data, schedule and CLIP are those of ``lseg_scenes_quickstart``, so that the two can be compared.
"""

from mmengine.config import read_base

from clipdense.engine.hooks import VocabularyHook
from clipdense.methods.denseclip.open_vocabulary import OpenContextAwareSegmenter
from clipdense.methods.lseg.evaluation import SceneSplits, SegmenterEvaluationHook

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_scenes import *
    from .._base_.scenes_evaluation import *

model = dict(
    type=OpenContextAwareSegmenter,
    clip='quickstart/train/clip.safetensors',
    width=48,
    decoder=dict(width=64, layers=2),
    temperature=0.03,
    loss=dict(identity=0.4),
)
train_cfg = dict(max_steps=1200)
custom_hooks = dict(
    vocabulary=dict(type=VocabularyHook, templates='name'),
    evaluation=dict(
        type=SegmenterEvaluationHook,
        interval=400,
        evaluations=dict(scenes=dict(type=SceneSplits, num_images=num_val, templates='name')),
    ),
)
