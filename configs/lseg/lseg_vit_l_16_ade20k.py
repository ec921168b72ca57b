"""LSeg on ADE20K as published: ViT-L/16, words from CLIP ViT-B/32.

    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_ade20k.py

Cost: not measured here (it needs GPUs and ADE20K); users of the release report about 90 hours on 8 V100.
Score: not measured here.  The paper gives 46.28 mIoU and 82.46 pixel accuracy, and 47.25 and 82.78 with the
words of RN50x16 (``-o model.clip=RN50x16/openai``), from memory of its table.

Differs from the release: words are embedded once.
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

data_root = 'data/ADEChallengeData2016'

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
        dataset=dict(type=BenchmarkTraining, benchmark='ade20k', root=data_root),
        size=480,
        long_side=520,
        scale=(0.5, 2.0),
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(type=BenchmarkSegmentation, benchmark='ade20k', root=data_root),
)
