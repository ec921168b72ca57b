"""Tip-Adapter-F on the first half of the classes, tested on both halves.

    clipdense adapt MY_FOLDER --method tip --classes base --shots 16 --seed 0 --out tip_base.safetensors
    clipdense train adapters/tip_f_base_to_new -o data=MY_FOLDER -o cache=tip_base.safetensors --seed 0

The first command makes the cache from the base classes alone, and searches alpha and beta on their validation
images; a cache with keys of new classes is refused.  New classes have no keys and are classified zero-shot.
Cost: one pass of the image tower per image and epoch.
Not run here: needs images of your own and the weights of a published CLIP.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.few_shot import *
    from .._base_.few_shot_base_to_new import *
    from .._base_.few_shot_tip_f import *

train_dataloader.update(batch_size=256)
