"""GLIP on scenes of 96 pixels: boxes of base classes, all names in one text in a new order for each image.

    clipdense scenes data/scenes_detection --train 4000 --image-size 96
    clipdense train contrastive/clip_scenes
    clipdense train glip/glip_scenes

The text tower is trained too with ``-o 'model.frozen=()'``.  Without fusion:
``-o model.head.size.fused=False``.  Each name encoded by itself: ``-o model.prompts.per_phrase=True``.

Cost: a step of 8 images has not been timed on a quiet machine.
Score: none yet; it has been run for a few steps, and not to its end.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.glip_scenes import *

train_cfg = dict(max_steps=900)
