"""LSeg with a ResNet-101 on one class against the others.  Configs name the episodes.

The release trains on each episode's support image too; here the model sees the query alone.  The release
stops after 3 epochs; its rate still follows a schedule of 240.
"""

from clipdense.methods.lseg.backbones import ResNetPyramid, timm_network
from clipdense.methods.lseg.episodes import EpisodeLSeg

model = dict(
    type=EpisodeLSeg,
    backbone=dict(
        type=ResNetPyramid,
        resnet=dict(type=timm_network, name='resnet101.tv_in1k', pretrained=True),
    ),
    clip='ViT-B-32/openai',
    statistics='imagenet',
)
train_dataloader = dict(batch_size=4, num_workers=8)
test_dataloader = dict(batch_size=8, num_workers=4)
