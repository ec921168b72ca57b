"""Backbone, FPN and RPN on base classes of scenes, which the four variants of ``vild_scenes`` share.

    clipdense scenes data/scenes_detection --train 4000 --image-size 96
    clipdense train contrastive/clip_scenes
    clipdense train vild/vild_scenes_rpn

Cost: 5 minutes in one thread beside another job (30 images a second).
Score: that of the detectors that start from it, docs/research/learning_vild.md.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_detection import *
    from .._base_.vild_scenes import *

model.merge(dict(roi_head=dict(bbox_head=dict(variant='text'))))
train_cfg = dict(max_steps=1000)
