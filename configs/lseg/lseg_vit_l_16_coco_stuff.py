"""LSeg's recipe on COCO-Stuff: 171 classes of things and stuff.

    clipdense prepare coco_stuff data/coco_stuff164k
    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_coco_stuff.py

Cost: not measured here (it needs GPUs and COCO).
Score: not measured here; none was published.  30 epochs see as many images as 176 of ADE20K.
"""

from mmengine.config import read_base

from clipdense.data.benchmark_training import BenchmarkTraining
from clipdense.data.benchmarks import BenchmarkSegmentation
from clipdense.data.segmentation_crops import SegmentationCrops
from clipdense.methods.lseg.backbones import TransformerPyramid, timm_network
from clipdense.methods.lseg.segmenter import LSeg

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_release import *

data_root = 'data/coco_stuff164k'

model = dict(
    type=LSeg,
    backbone=dict(
        type=TransformerPyramid,
        vit=dict(type=timm_network, name='vit_large_patch16_384.augreg_in21k_ft_in1k', pretrained=True),
        channels=(256, 512, 1024, 1024),
    ),
    clip='ViT-B-32/openai',
    slide=test_slide,
)
train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    dataset=dict(
        type=SegmentationCrops,
        dataset=dict(type=BenchmarkTraining, benchmark='coco_stuff', root=data_root),
        size=480,
        long_side=520,
        scale=(0.5, 2.0),
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(type=BenchmarkSegmentation, benchmark='coco_stuff', root=data_root),
)
train_cfg.update(max_epochs=30)
param_scheduler[0].update(end=30)
