"""GLIPv2's masks on scenes of 96 pixels: masks of base classes, learned after the boxes.

    clipdense scenes data/scenes_detection --train 4000 --image-size 96
    clipdense train contrastive/clip_scenes
    clipdense train glip/glip_scenes_captions
    clipdense train glip/glipv2_scenes

Everything but the masks is frozen, so that boxes stay as they were.

Cost: 64 CPU-seconds of one thread.
Score: AP50 among all 64 names, boxes / masks, three seeds: base 0.610 / 0.609, novel 0.666 / 0.659,
unseen 0.597 / 0.598.
"""

from mmengine.config import read_base

from clipdense.methods.glip.v2.detector import GLIPv2

with read_base():
    from .._base_.default_runtime import *
    from .._base_.glip_scenes import *
    from .._base_.scenes_detection import *

model.update(
    type=GLIPv2,
    objectives=dict(masks=dict(size=10, max_regions=16, log_scale=-2.5)),
    start='work_dirs/glip_scenes_captions/glip.safetensors',
    frozen=('backbone', 'neck', 'head', 'clip'),
)
train_dataloader.dataset.masks = True
test_evaluator.kinds = ('bbox', 'segm')
train_cfg = dict(max_steps=400)
