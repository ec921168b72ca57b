"""GroupViT on PASCAL VOC 2012, 21 classes, as released.

Windows of 448 pixels, background below a score of 0.95.

    clipdense test groupvit/groupvit_voc21 group_vit_gcc_yfcc_30e-879422e0.pth

Cost: no training; a 500 x 375 image is two windows of 448.
Score: not measured by us (no weights here).  The repository: 52.3 mIoU for CC3M+CC12M+YFCC14M, 50.8 for
RedCaps12M in place of YFCC14M.
"""

from mmengine.config import read_base

from clipdense.data.benchmarks.reader import BenchmarkSegmentation
from clipdense.engine.hooks import VocabularyHook
from clipdense.evaluation.mean_iou import MeanIoU
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.segmenter import GroupVitSegmenter

with read_base():
    from .._base_.default_runtime import *

model = dict(
    type=GroupVitSegmenter,
    clip=dict(type=build_group_vit, size='GroupViT-S-16'),  # replaced by the WEIGHTS of the command line
    slide=dict(short_side=448, long_side=2048, window=448, stride=224),
    background_threshold=0.95,
)
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(
        type=BenchmarkSegmentation,
        benchmark='voc21',
        root='data',
        vocabulary='voc21_groupvit',
    ),
)
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = [dict(type=VocabularyHook, templates='simple')]
