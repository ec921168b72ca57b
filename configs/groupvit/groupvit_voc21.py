"""GroupViT on PASCAL VOC 2012 as released: windows of 448 pixels, background below a probability of 0.95.

    clipdense test groupvit/groupvit_voc21 group_vit_gcc_yfcc_30e-879422e0.pth

The other two data sets of the release, each by its options:

    PASCAL Context, 60 classes  -o test_dataloader.dataset.benchmark=context60 \\
                                -o test_dataloader.dataset.vocabulary=context60_groupvit \\
                                -o model.background_threshold=0.35
    COCO-Object, 81 classes     -o test_dataloader.dataset.benchmark=coco_object \\
                                -o test_dataloader.dataset.vocabulary=coco_object_clearclip

Cost: no training; a 500 x 375 image is two windows of 448.
Score: the repository has, on VOC / Context / COCO-Object, 52.3 / 22.4 / 24.3 mIoU for CC3M + CC12M + YFCC14M
and 50.8 / 23.7 / 27.5 with RedCaps12M in place of YFCC14M.
Not run here: needs the released weights and the data sets.
"""

from mmengine.config import read_base

from clipdense.data.segmentation.published.reader import BenchmarkSegmentation
from clipdense.engine.hooks import VocabularyHook
from clipdense.evaluation.segmentation import MeanIoU
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
    dataset=dict(type=BenchmarkSegmentation, benchmark='voc21', root='data', vocabulary='voc21_groupvit'),
)
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook, templates='simple'))
