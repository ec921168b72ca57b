"""CoOp on any folder of images with a subfolder for each class.

    clipdense train prompt_learning/coop_folder -o data=MY_FOLDER
    clipdense train prompt_learning/coop_folder -o data=MY_FOLDER -o shots=4 --seed 1
    clipdense classify PHOTOS -c 'cat, dog' --prompts work_dirs/coop_folder/prompts.safetensors

``data`` is a folder of class folders, of ``train``, ``val`` and ``test``, or a split file of CoOp; ``clip``
any CLIP, whose ``image_size`` is 224 here.
Published: 200 epochs for 8 and 16 shots, 100 for 2 and 4, 50 for 1 and for ImageNet.
Cost: one pass of the image tower per image and epoch, one of the texts per step.
Not run here: needs images of your own and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_coop import *
