"""NACLIP on VOC21, as its authors ran it: whole images.

    clipdense test dense_clip/naclip_voc21 WEIGHTS

Cost: no training; one pass of an image.
Score: not measured by us (no weights here).
The paper, OpenAI ViT-B/16: 58.9 mIoU; with ``refiner=dict(type=PAMR)``, its code's default: 64.07.
``clipdense reproduce naclip voc21`` also resizes position embeddings as the released code does.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.voc21 import *

model.update(
    recipe='naclip',
    slide=dict(short_side=336),
    background_threshold=0.1,
)
