"""ResCLIP on NACLIP on VOC21, as its authors ran it: whole images.

    clipdense test dense_clip/resclip_voc21 WEIGHTS

Cost: no training; a pass of an image, and the last block twice.
Score: not measured by us (no weights here).
The paper, OpenAI ViT-B/16: 61.1 mIoU.
``clipdense reproduce resclip voc21`` also resizes position embeddings as the released code does.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.voc21 import *

model.update(
    recipe='resclip',
    options=dict(cross=(0.3, 2.0), feedback=(0.7, 2.2)),
    slide=dict(short_side=336),
    background_threshold=0.1,
)
