"""LSeg on scenes: masks of base combinations, class names by a CLIP that saw captions of novel ones.

    clipdense scenes data/scenes_long --train 60000
    clipdense train contrastive/clip_scenes --work-dir work_dirs/clip_scenes
    clipdense train contrastive/clip_phrases_scenes --work-dir work_dirs/clip_phrases_scenes
    clipdense train lseg/lseg_scenes

Cost: 800 steps, 6 minutes in one thread beside other jobs (80 images/s), after the CLIP's 64.
Score: mIoU over the foreground of 320 images a split, among own names and among all 64, seed 0:
base 0.713 / 0.625, novel 0.519 / 0.393, unseen 0.500 / 0.471; seed 1: base 0.694 / 0.607, novel
0.552 / 0.416, unseen 0.515 / 0.467.

Backbone and class embeddings come from the two towers of a CLIP whose patches were trained on the phrases of
captions, without masks.  ``lseg_scenes_quickstart`` is the same with the small CLIP of the quickstart.
"""

from mmengine.config import read_base

from clipdense.engine.hooks import VocabularyHook
from clipdense.methods.lseg.backbones import TransformerPyramid
from clipdense.methods.lseg.evaluation import SceneSplits, SegmenterEvaluationHook
from clipdense.methods.lseg.segmenter import LSeg

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_scenes import *
    from .._base_.scenes_evaluation import *

model = dict(
    type=LSeg,
    backbone=dict(  # of the CLIP's own image tower
        type=TransformerPyramid,
        channels=(48, 48, 48, 48),
        scales=(2, 1, 0.5, 0.25),
    ),
    clip='work_dirs/clip_phrases_scenes/clip.safetensors',
    width=48,
    temperature=0.03,
    statistics='openai',
)
train_cfg = dict(max_steps=800)
custom_hooks = dict(
    vocabulary=dict(type=VocabularyHook, templates=templates),
    evaluation=dict(
        type=SegmenterEvaluationHook,
        interval=400,
        evaluations=dict(scenes=dict(type=SceneSplits, num_images=num_val, templates=templates)),
    ),
)
