"""MaPLe on ImageNet, tested on other datasets and on other images of its classes.

    clipdense train prompt_learning/maple_cross_dataset

``targets`` have classes of their own, ``domains`` are other images of ImageNet's classes.
Published: 5 epochs with batches of 4; across datasets 2 epochs, depth 3 and a learning rate of 2.6e-3.
Cost: forward and backward passes of both towers.
Not run here: needs ImageNet and the datasets of CoCoOp and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_cross_dataset import *
    from .._base_.few_shot_maple import *

train_dataloader.update(batch_size=4)
epochs = 2
lr = 2.6e-3
depth = 3
