"""CLIPSurgery on VOC21, whole images of 512 pixels.

    clipdense test dense_clip/clip_surgery_voc21 WEIGHTS

Cost: no training; one pass of an image.
Score: not measured by us (no weights here).
GEM's authors, OpenAI ViT-B/16: 41.2 mIoU; their rule for the background is not
known to us, and none is applied.
``clipdense reproduce clip_surgery voc21`` also resizes position embeddings as the released code does.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.voc21 import *

model.update(
    recipe='clip_surgery',
    slide=dict(short_side=512),
)
test_dataloader['dataset'].update(vocabulary='voc21_clearclip')
custom_hooks[0].update(templates='imagenet_scene')
