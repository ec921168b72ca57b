"""LSeg's recipe on PASCAL VOC 2012: 20 classes and the background.

    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_voc.py

Any folder in VOC's layout trains the same way: take ``VOCSegmentation`` for ``BenchmarkTraining`` and
``BenchmarkSegmentation``, as ``lseg_camvid`` does.

Cost: not measured here (it needs GPUs and VOC).
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

data_root = 'data/VOCdevkit/VOC2012'

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
        dataset=dict(type=BenchmarkTraining, benchmark='voc21', root=data_root),
        size=480,
        long_side=520,
        scale=(0.5, 2.0),
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(type=BenchmarkSegmentation, benchmark='voc21', root=data_root),
)
