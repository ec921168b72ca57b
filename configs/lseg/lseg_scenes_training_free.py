"""What ``lseg_scenes_quickstart`` is compared with: the same CLIP without any mask.

    clipdense test lseg/lseg_scenes_training_free quickstart/train/clip.safetensors

Cost: no training.
Score: mIoU over the foreground of 320 images a split, with the quickstart's CLIP (seed 0), among own names
and among all 64: base 0.082 / 0.074, novel 0.107 / 0.089, unseen 0.091 / 0.070.
"""

from mmengine.config import read_base

from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.methods.lseg.evaluation import SceneSplits, SegmenterEvaluationHook

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_evaluation import *

model = dict(
    type=DenseCLIP,
    clip='quickstart/train/clip.safetensors',  # replaced by the WEIGHTS of the command line
    method='maskclip',
    slide=dict(),
)
custom_hooks = dict(
    evaluation=dict(
        type=SegmenterEvaluationHook,
        evaluations=dict(scenes=dict(type=SceneSplits, num_images=num_val, templates='name')),
    ),
)
