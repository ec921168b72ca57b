"""LSeg on scenes, small: what ``clipdense quickstart`` runs after its CLIP, there for 400 steps.

    clipdense quickstart --out quickstart
    clipdense train lseg/lseg_scenes_quickstart

Cost: 281 CPU-seconds, 12 minutes on one of two busy cores of an AMD EPYC (AVX2, fp32); 6 minutes with one of
them idle.
Score: mIoU over the foreground of 320 images a split, among own names and among all 64, seeds 0 and 1:
base 0.600 / 0.502 and 0.589 / 0.500, novel 0.405 / 0.186 and 0.350 / 0.131, unseen 0.326 / 0.234 and
0.286 / 0.196.  The same CLIP without masks: 0.082 / 0.074, 0.107 / 0.089, 0.091 / 0.070.

Backbone and class embeddings come from the two towers of the quickstart's CLIP; class names are embedded
without a template, as in the release.
"""

from mmengine.config import read_base

from clipdense.engine.hooks import VocabularyHook
from clipdense.methods.lseg.evaluation import SceneSplits, SegmenterEvaluationHook
from clipdense.methods.lseg.segmenter import LSeg

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_scenes import *
    from .._base_.scenes_evaluation import *

model = dict(
    type=LSeg,
    clip='quickstart/train/clip.safetensors',  # its image tower is the backbone
    width=48,
    temperature=0.03,
    statistics='openai',
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
