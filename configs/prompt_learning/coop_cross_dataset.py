"""CoOp on ImageNet, tested on other datasets and on other images of its classes.

    clipdense train prompt_learning/coop_cross_dataset

``targets`` have classes of their own, ``domains`` are other images of ImageNet's classes.
Published: 200 epochs for 8 and 16 shots, 100 for 2 and 4, 50 for 1 and for ImageNet.
Cost: one pass of the image tower per image and epoch, one of the texts per step.
Not run here: needs ImageNet and the datasets of CoCoOp and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_coop import *
    from .._base_.few_shot_cross_dataset import *
