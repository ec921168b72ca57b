"""LSeg on street photographs (CamVid, 11 classes, PASCAL VOC layout), from scratch on a CPU.

    clipdense train lseg/lseg_camvid
    clipdense train lseg/lseg_camvid --work-dir work_dirs/lseg_camvid_unseen \\
        -o 'unseen=["car","tree","pavement"]'

Cost: 186 CPU-seconds, 6 minutes on one of two busy cores of an AMD EPYC (AVX2, fp32).
Score: mIoU 0.479, pixel accuracy 0.844 on the 51 validation images (seed 0).  With car, tree and pavement
held out: 0.274 over all classes, 0.377 over the seen ones, 0.000 over the three.

Class embeddings are those of LVIS names by OpenAI's ViT-B/32, from a file: no text tower is needed.  LVIS has
names of things only, so each other class uses the embedding of a thing that is often seen with it.
"""

from mmengine.config import read_base

from clipdense.clip.class_embeddings import StoredEmbeddings
from clipdense.clip.resnet import ModifiedResNet
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import WarmupCosine
from clipdense.methods.lseg.backbones import ResNetPyramid
from clipdense.methods.lseg.segmenter import LSeg

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_camvid import *

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
train_cfg = dict(max_steps=500, val_interval=250)
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
