"""LSeg's model and data as released: ViT-L/16, the text tower of CLIP ViT-B/32, crops of ADE20K."""

from clipdense.data.segmentation.crops import SegmentationCrops
from clipdense.data.segmentation.published import BenchmarkSegmentation
from clipdense.data.segmentation.published.training import BenchmarkTraining
from clipdense.methods.lseg.backbones import TransformerPyramid, timm_network
from clipdense.methods.lseg.segmenter import LSeg

data_root = 'data/ADEChallengeData2016'

model = dict(
    type=LSeg,
    backbone=dict(
        type=TransformerPyramid,
        vit=dict(type=timm_network, name='vit_large_patch16_384.augreg_in21k_ft_in1k', pretrained=True),
        channels=(256, 512, 1024, 1024),
    ),
    clip='ViT-B-32/openai',
    slide=dict(
        short_side=520,
        long_side=520,
        window=480,
        stride=320,
        scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
        flip=True,
    ),
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
