"""LSeg on street photographs (CamVid, 11 classes) from the embedded model, which is frozen.

    clipdense train lseg/lseg_camvid_embedded
    clipdense train lseg/lseg_camvid_embedded --work-dir work_dirs/lseg_camvid_embedded_unseen \\
        -o 'seen=["sky","building","pole","road","sign","fence","pedestrian","bicyclist"]' \\
        -o 'unseen=["car","tree","pavement"]'
    clipdense segment PHOTO -c 'road, car, dog' --weights work_dirs/lseg_camvid_embedded/lseg.safetensors

Cost: about 400 CPU-seconds; 9 minutes on one of two busy cores of a Xeon (AVX-512, fp32).
Score: mIoU 0.630, 0.626 and 0.638 on the 51 validation images (seeds 0, 1, 2), pixel accuracy 0.896 (seed 0).
With car, tree and pavement held out: 0.473, 0.477 and 0.468 over the eight seen classes, 0.120, 0.120 and
0.124 over the three (seed 0: car 0.348, tree 0.000, pavement 0.011).

The image tower is not trained.  Its own pixel embeddings classify what had no masks, see ``EnsembleLSeg``;
how was chosen on training images (docs/research/learning_lseg.md).
"""

from mmengine.config import read_base

from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import WarmupCosine
from clipdense.methods.lseg.ensemble import EnsembleLSeg

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_camvid import *

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
crop, long_side, scale = 352, 720, (0.75, 1.35)

model = dict(
    type=EnsembleLSeg,
    seen='{{seen}}',
    clip='embedded',
    width=64,
    loss=dict(balance=0.5),
    statistics='half',
    slide=dict(short_side=540),
)
train_dataloader.update(batch_size=4, num_workers=0)
train_cfg = dict(max_steps=250, val_interval=250)
param_scheduler = dict(type=WarmupCosine, warmup=30)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook))
