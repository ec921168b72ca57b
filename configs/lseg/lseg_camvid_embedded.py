"""LSeg on street photographs (CamVid, 11 classes) from the embedded model, which is frozen.

    clipdense train lseg/lseg_camvid_embedded
    clipdense train lseg/lseg_camvid_embedded --work-dir work_dirs/lseg_camvid_embedded_unseen \\
        -o 'seen=["sky","building","pole","road","sign","fence","pedestrian","bicyclist"]' \\
        -o 'unseen=["car","tree","pavement"]'
    clipdense segment PHOTO -c 'road, car, dog' --weights work_dirs/lseg_camvid_embedded/lseg.safetensors

Cost: about 400 CPU-seconds, 33 minutes beside 15 other jobs on two cores of a Xeon (AVX-512, fp32).
Score: mIoU 0.630 and 0.638 on the 51 validation images (seeds 0 and 2).  With car, tree and pavement held out
(seeds 0 and 1): 0.473 and 0.477 over the eight seen classes, 0.120 and 0.120 over the three (seed 0: car
0.348, tree 0.000, pavement 0.011).

The image tower is not trained.  Its own pixel embeddings classify what had no masks, see ``EnsembleLSeg``;
how was chosen on training images (docs/research/learning_lseg.md).
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.data.segmentation.crops import SegmentationCrops, ZeroShotSplit
from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.lseg.ensemble import EnsembleLSeg
from clipdense.methods.lseg.training import ScratchFaster

with read_base():
    from .._base_.default_runtime import *

data_root = 'data/camvid'
seen = [
    'sky',
    'building',
    'pole',
    'road',
    'pavement',
    'tree',
    'sign',
    'fence',
    'car',
    'pedestrian',
    'bicyclist',
]
unseen = []

model = dict(
    type=EnsembleLSeg,
    seen='{{seen}}',
    clip='embedded',
    width=64,
    loss=dict(balance=0.5),
    statistics='half',
    slide=dict(short_side=540),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type=SegmentationCrops,
        dataset=dict(
            type=ZeroShotSplit,
            dataset=dict(type=VOCSegmentation, root='{{data_root}}', split='train'),
            seen='{{seen}}',
            unseen='{{unseen}}',
            pixels='ignore',
        ),
        size=352,
        long_side=720,
        scale=(0.75, 1.35),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(
        type=ZeroShotSplit,
        dataset=dict(type=VOCSegmentation, root='{{data_root}}', split='val'),
        seen='{{seen}}',
        unseen='{{unseen}}',
        pixels='keep',
    ),
)
val_cfg = dict()
val_evaluator = dict(type=MeanIoU)
test_dataloader, test_cfg, test_evaluator = val_dataloader, val_cfg, val_evaluator
train_cfg = dict(max_steps=250, val_interval=250)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    constructor=ScratchFaster,
    precision='auto',
    optimizer=dict(type=AdamW, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05),
    paramwise_cfg=dict(scratch_lr=1.0),
)
param_scheduler = dict(type=WarmupCosine, warmup=30)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook))
