"""Tip-Adapter-F on any folder of images with a subfolder for each class.

    clipdense adapt MY_FOLDER --method tip --shots 16 --seed 0 --out tip.safetensors
    clipdense train adapters/tip_f_folder -o data=MY_FOLDER -o cache=tip.safetensors --seed 0
    clipdense classify PHOTOS -c 'cat, dog' --adapter work_dirs/tip_f_folder/adapter.safetensors

The first command makes the cache and searches alpha and beta; the second trains its keys with new random
crops in each epoch.  ``clipdense adapt --method tip_f`` trains them on stored embeddings, in seconds.
Cost: one pass of the image tower per image and epoch.
Not run here: needs images of your own and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_tip_f import *

train_dataloader.update(batch_size=256)
