"""GEM on VOC21, whole images and one prompt, as its package has it.

    clipdense test dense_clip/gem_voc21 WEIGHTS

Cost: no training; one pass of an image.
Score: not measured by us (no weights here).
The paper, OpenAI ViT-B/16: 46.2 mIoU; its rule for the background is not
known to us, and none is applied.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.voc21 import *

model.update(
    recipe='gem',
    slide=dict(short_side=448),
    logit_scale=100.0,
)
test_dataloader['dataset'].update(vocabulary='voc21_clearclip')
custom_hooks[0].update(templates='simple')
