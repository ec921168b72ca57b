"""ClearCLIP on VOC21, as its authors ran it.

    clipdense test dense_clip/clearclip_voc21 WEIGHTS

Cost: no training; windows of 448 pixels.
Score: not measured by us (no weights here).
The paper, OpenAI ViT-B/16: 51.8 mIoU.
``clipdense reproduce clearclip voc21`` also resizes position embeddings as the released code does.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.voc21 import *

model.update(
    recipe='clearclip',
    slide=dict(short_side=448, window=448, stride=224),
    logit_scale=50.0,
    background_threshold=0.5,
)
test_dataloader['dataset'].update(vocabulary='voc21_clearclip')
