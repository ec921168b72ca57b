"""GroupViT on PASCAL VOC 2012 as released: windows of 448 pixels, background below a probability of 0.95.

    clipdense test groupvit/groupvit_voc21 group_vit_gcc_yfcc_30e-879422e0.pth

Its settings (class names, prompt, windows, background threshold) stand once, in the preset ``groupvit``;
``clipdense reproduce groupvit voc21`` prints them with the published score beside the same measurement.  Two
more datasets of the release, each by its option:

    PASCAL Context, 60 classes  -o custom_hooks.evaluation.evaluations.voc21.dataset=context60
    COCO-Object, 81 classes     -o custom_hooks.evaluation.evaluations.voc21.dataset=coco_object

Cost: no training; a 500 x 375 image is two windows of 448.
Score: the repository has, on VOC / Context / COCO-Object, 52.3 / 22.4 / 24.3 mIoU for CC3M + CC12M + YFCC14M
and 50.8 / 23.7 / 27.5 with RedCaps12M in place of YFCC14M.
Not run here: needs the released weights and the data sets.
"""

from mmengine.config import read_base

from clipdense.benchmarks.evaluation import PresetSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.segmenter import GroupVitSegmenter

with read_base():
    from .._base_.default_runtime import *

model = dict(
    type=GroupVitSegmenter,
    clip=dict(type=build_group_vit, size='GroupViT-S-16'),  # replaced by the WEIGHTS of the command line
)
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations=dict(
            voc21=dict(type=PresetSegmentation, method='groupvit', dataset='voc21', root='data'),
        ),
    ),
)
