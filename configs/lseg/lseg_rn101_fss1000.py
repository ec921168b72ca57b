"""Zero-shot segmentation on FSS-1000: 240 classes never seen.

    clipdense train lseg/lseg_rn101_fss1000

Cost: not measured here (it needs a GPU and FSS-1000).
Score: not measured here.  The release gives 84.7 mIoU, and 87.8 with ViT-L/16.

The release trains on each episode's support image too; this recipe sees the query alone.
"""

from mmengine.config import read_base

from clipdense.data.few_shot import FSS1000
from clipdense.evaluation.few_shot import FoldIoU
from clipdense.methods.lseg.backbones import ResNetPyramid, timm_network
from clipdense.methods.lseg.episodes import EpisodeLSeg

with read_base():
    from .._base_.default_runtime import *
    from .._base_.lseg_release import *

model = dict(
    type=EpisodeLSeg,
    backbone=dict(
        type=ResNetPyramid,
        resnet=dict(type=timm_network, name='resnet101.tv_in1k', pretrained=True),
    ),
    clip='ViT-B-32/openai',
    statistics='imagenet',
)
train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    dataset=dict(type=FSS1000, root='data/FSS-1000', split='train'),
)
test_dataloader = dict(
    batch_size=8,
    num_workers=4,
    dataset=dict(type=FSS1000, root='data/FSS-1000', split='test'),
)
test_evaluator.update(type=FoldIoU)
train_cfg.update(max_epochs=4)
