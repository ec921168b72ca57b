"""SC-CLIP on VOC21, as its authors ran it.

    clipdense test dense_clip/sc_clip_voc21 WEIGHTS

Cost: no training; a 336 x 500 image is eight windows of ViT-B/16, and two passes of the last block.
Score: not measured by us (no weights here).
The paper, OpenAI ViT-B/16: 64.6 mIoU.
``clipdense reproduce sc_clip voc21`` also resizes position embeddings as the released code does.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.voc21 import *

model.update(
    recipe='sc_clip',
    slide=dict(short_side=336, window=224, stride=112),
    logit_scale=50.0,
    background_threshold=0.15,
    area_threshold=0.1,
)
