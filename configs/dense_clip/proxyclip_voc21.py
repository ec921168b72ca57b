"""ProxyCLIP through DINO ViT-B/8 on VOC21, as its authors ran it.

    clipdense test dense_clip/proxyclip_voc21 WEIGHTS

Cost: no training; windows of 336 pixels, through two towers.
Score: not measured by us (no weights here).
The paper, OpenAI ViT-B/16: 61.3 mIoU.
``clipdense reproduce proxyclip voc21`` also resizes position embeddings as the released code does.
"""

from mmengine.config import read_base

from clipdense.methods.dense_clip.proxy import TimmProxy

with read_base():
    from .._base_.default_runtime import *
    from .._base_.voc21 import *

model.update(
    recipe='proxyclip',
    proxy=dict(type=TimmProxy, name='vit_base_patch8_224.dino'),
    slide=dict(short_side=336, window=336, stride=112),
    background_threshold=0.2,
)
test_dataloader['dataset'].update(vocabulary='voc21_proxyclip')
