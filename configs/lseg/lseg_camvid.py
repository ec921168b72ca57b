"""LSeg on street photographs (CamVid, 11 classes, PASCAL VOC layout), from scratch on a CPU.

    clipdense train lseg/lseg_camvid
    clipdense train lseg/lseg_camvid --work-dir work_dirs/lseg_camvid_unseen \\
        -o 'train_dataloader.dataset.dataset.unseen=["car","tree","pavement"]' \\
        -o 'val_dataloader.dataset.unseen=["car","tree","pavement"]'

Cost: 186 CPU-seconds, 6 minutes on one of two busy cores of an AMD EPYC (AVX2, fp32).
Score: mIoU 0.479, pixel accuracy 0.844 on the 51 validation images (seed 0).  With car, tree and pavement
held out: 0.274 over all classes, 0.377 over the seen ones, 0.000 over the three.

Class embeddings are those of LVIS names by OpenAI's ViT-B/32, from a file: no text tower is needed.  LVIS has
names of things only, so each other class uses the embedding of a thing that is often seen with it.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.clip.class_embeddings import StoredEmbeddings
from clipdense.clip.resnet import ModifiedResNet
from clipdense.data.segmentation.crops import SegmentationCrops, ZeroShotSplit
from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.lseg.backbones import ResNetPyramid
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.methods.lseg.training import ScratchFaster

with read_base():
    from .._base_.default_runtime import *

data_root = 'data/camvid'
text_root = 'data/clip_text_embeddings'

model = dict(
    type=LSeg,
    backbone=dict(
        type=ResNetPyramid,
        resnet=dict(
            type=ModifiedResNet,
            size=dict(image_size=128, width=16, layers=(1, 1, 1, 1), num_heads=8, embed_dim=96),
        ),
    ),
    embed_dim=512,
    width=32,
    loss=dict(balance=0.5),
    statistics='imagenet',
    slide=dict(short_side=180),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type=SegmentationCrops,
        dataset=dict(
            type=ZeroShotSplit,
            dataset=dict(type=VOCSegmentation, root=data_root, split='train'),
            unseen=[],
            pixels='ignore',
        ),
        size=128,
        long_side=240,
        scale=(0.7, 1.6),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(
        type=ZeroShotSplit,
        dataset=dict(type=VOCSegmentation, root=data_root, split='val'),
        unseen=[],
        pixels='keep',
    ),
)
val_cfg = dict()
val_evaluator = dict(type=MeanIoU)
train_cfg = dict(max_steps=500, val_interval=250)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    constructor=ScratchFaster,
    precision='auto',
    optimizer=dict(type=AdamW, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05),
    paramwise_cfg=dict(scratch_lr=1.0),
)
param_scheduler = dict(type=WarmupCosine, warmup=50)
custom_hooks = dict(
    vocabulary=dict(
        type=VocabularyHook,
        embedder=dict(
            type=StoredEmbeddings,
            file=f'{text_root}/lvis_v1_clip_a_cname.npy',
            class_names=f'{text_root}/lvis_v1_train_cat_info.json',
            stand_ins=dict(
                sky='kite',
                building='clock_tower',
                road='road_map',
                pavement='parking_meter',
                tree='Christmas_tree',
                sign='street_sign',
                fence='birdcage',
                car='car_(automobile)',
                pedestrian='person',
                bicyclist='bicycle',
            ),
        ),
    ),
)
