"""LSeg's recipe on Cityscapes: crops of 768 from images of 2048 pixels.

    clipdense prepare cityscapes data/cityscapes
    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_cityscapes.py

Cost: not measured here (it needs GPUs and Cityscapes).
Score: not measured here; none was published.
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

data_root = 'data/cityscapes'

model = dict(
    type=LSeg,
    backbone=dict(
        type=TransformerPyramid,
        vit=dict(type=timm_network, name='vit_large_patch16_384.augreg_in21k_ft_in1k', pretrained=True),
        channels=(256, 512, 1024, 1024),
    ),
    clip='ViT-B-32/openai',
    slide=dict(short_side=1024, window=768, stride=512),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    dataset=dict(
        type=SegmentationCrops,
        dataset=dict(type=BenchmarkTraining, benchmark='cityscapes', root=data_root),
        size=768,
        long_side=2048,
        scale=(0.5, 2.0),
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(type=BenchmarkSegmentation, benchmark='cityscapes', root=data_root),
)
