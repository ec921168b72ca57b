"""CoOp on the first half of the classes, tested on both halves.

    clipdense train prompt_learning/coop_base_to_new -o data=MY_FOLDER
    for seed in 1 2 3; do clipdense train prompt_learning/coop_base_to_new -o data=MY_FOLDER --seed $seed \\
        --work-dir work_dirs/coop_base_to_new/$seed; done

The result has the accuracy on base classes, on new classes, and their harmonic mean.
Published: 200 epochs for 8 and 16 shots, 100 for 2 and 4, 50 for 1 and for ImageNet.
Cost: one pass of the image tower per image and epoch, one of the texts per step.
Not run here: needs labeled images and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_base_to_new import *
    from .._base_.few_shot_coop import *
