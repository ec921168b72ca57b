"""MaPLe on the first half of the classes, tested on both halves.

    clipdense train prompt_learning/maple_base_to_new -o data=MY_FOLDER
    for seed in 1 2 3; do clipdense train prompt_learning/maple_base_to_new -o data=MY_FOLDER --seed $seed \\
        --work-dir work_dirs/maple_base_to_new/$seed; done

The result has the accuracy on base classes, on new classes, and their harmonic mean.
Published: 5 epochs with batches of 4; across datasets 2 epochs, depth 3 and a learning rate of 2.6e-3.
Cost: forward and backward passes of both towers.
Not run here: needs labeled images and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_base_to_new import *
    from .._base_.few_shot_maple import *

train_dataloader.update(batch_size=4)
