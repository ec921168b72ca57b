"""CoCoOp on ImageNet, tested on other datasets and on other images of its classes.

    clipdense train prompt_learning/cocoop_cross_dataset

``targets`` have classes of their own, ``domains`` are other images of ImageNet's classes.
Published: 10 epochs with batches of one image.
Cost: a pass of all texts for each image, forward and backward.
Not run here: needs ImageNet and the datasets of CoCoOp and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_cocoop import *
    from .._base_.few_shot_cross_dataset import *

train_dataloader.update(batch_size=1)
