"""MaPLe on any folder of images with a subfolder for each class.

    clipdense train prompt_learning/maple_folder -o data=MY_FOLDER
    clipdense train prompt_learning/maple_folder -o data=MY_FOLDER -o shots=4 --seed 1
    clipdense classify PHOTOS -c 'cat, dog' --prompts work_dirs/maple_folder/prompts.safetensors

``data`` is a folder of class folders, of ``train``, ``val`` and ``test``, or a split file of CoOp; ``clip``
any CLIP, whose ``image_size`` is 224 here.
Published: 5 epochs with batches of 4; across datasets 2 epochs, depth 3 and a learning rate of 2.6e-3.
Cost: forward and backward passes of both towers.
Not run here: needs images of your own and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_maple import *

train_dataloader.update(batch_size=4)
