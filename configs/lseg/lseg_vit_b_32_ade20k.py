"""LSeg on ADE20K with a small backbone: the paper's ablation of the regularisation block.

    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_b_32_ade20k.py

Cost: not measured here (it needs GPUs and ADE20K).
Score: not measured here.  The paper gives, from memory of its table, 37.83 mIoU without a block, 39.79 with
this one (bottleneck, depth 2), 39.45 with a depthwise one of depth 2, and 0.18 with a depthwise one of depth
4.
"""

from mmengine.config import read_base

from clipdense.data.benchmark_training import BenchmarkTraining
from clipdense.data.benchmarks import BenchmarkSegmentation
from clipdense.data.segmentation_crops import SegmentationCrops
from clipdense.methods.lseg.backbones import TransformerPyramid, timm_network
from clipdense.methods.lseg.regularize import BottleneckBlock
from clipdense.methods.lseg.segmenter import LSeg

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_release import *

data_root = 'data/ADEChallengeData2016'

model = dict(
    type=LSeg,
    backbone=dict(
        type=TransformerPyramid,
        vit=dict(type=timm_network, name='vit_base_patch32_384.augreg_in21k_ft_in1k', pretrained=True),
        channels=(96, 192, 384, 768),
    ),
    clip='ViT-B-32/openai',
    block=dict(type=BottleneckBlock, depth=2),
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
