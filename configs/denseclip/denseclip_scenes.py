"""The open-vocabulary DenseCLIP on scenes, with the small CLIP of the quickstart.

    clipdense quickstart --tour short --out quickstart
    clipdense train denseclip/denseclip_scenes

Cost: 600 steps and one evaluation took 180 CPU-seconds in one thread.
Score: after 400 of the 1,200 steps, where the run was stopped: mIoU over the foreground of 320 images a
split, among own names and among all 64: base 0.210 / 0.143, novel 0.259 / 0.102, unseen 0.209 / 0.111.
``lseg_scenes_quickstart`` has 0.258 / 0.182, 0.307 / 0.133 and 0.226 / 0.150 there.

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
