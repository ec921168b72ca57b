"""CLIP-Adapter on any folder of images with a subfolder for each class.

    clipdense train adapters/clip_adapter_folder -o data=MY_FOLDER
    clipdense classify PHOTOS -c 'cat, dog' --adapter work_dirs/clip_adapter_folder/adapter.safetensors

With new random crops in each epoch; ``clipdense adapt`` encodes the images once and takes seconds.
Cost: one pass of the image tower per image and epoch.
Not run here: needs images of your own and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_clip_adapter import *

train_dataloader.update(batch_size=256)
