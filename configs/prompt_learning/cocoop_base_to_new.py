"""CoCoOp on the first half of the classes, tested on both halves.

    clipdense train prompt_learning/cocoop_base_to_new -o data=MY_FOLDER
    for seed in 1 2 3; do clipdense train prompt_learning/cocoop_base_to_new -o data=MY_FOLDER --seed $seed \\
        --work-dir work_dirs/cocoop_base_to_new/$seed; done

The result has the accuracy on base classes, on new classes, and their harmonic mean.
Published: 10 epochs with batches of one image.
Cost: a pass of all texts for each image, forward and backward.
Not run here: needs labeled images and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_base_to_new import *
    from .._base_.few_shot_cocoop import *

train_dataloader.update(batch_size=1)
