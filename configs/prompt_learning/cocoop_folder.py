"""CoCoOp on any folder of images with a subfolder for each class.

    clipdense train prompt_learning/cocoop_folder -o data=MY_FOLDER
    clipdense train prompt_learning/cocoop_folder -o data=MY_FOLDER -o shots=4 --seed 1
    clipdense classify PHOTOS -c 'cat, dog' --prompts work_dirs/cocoop_folder/prompts.safetensors

``data`` is a folder of class folders, of ``train``, ``val`` and ``test``, or a split file of CoOp; ``clip``
any CLIP, whose ``image_size`` is 224 here.
Published: 10 epochs with batches of one image.
Cost: a pass of all texts for each image, forward and backward.
Not run here: needs images of your own and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_cocoop import *

train_dataloader.update(batch_size=1)
