"""A small BLIP pre-trained on the captions of scenes.

    clipdense scenes data/scenes --train 20000
    clipdense train blip/blip_scenes

Cost: 326 CPU-seconds in one thread, beside other jobs.
Score: seed 0, accuracy among own names on base / novel / unseen by similarity 0.147 / 0.253 / 0.250, by
matching 0.294 / 0.422 / 0.359 (chance 0.031 / 0.063 / 0.063); captions that name the object 0.256 / 0.303 /
0.000.
"""

from mmengine.config import read_base

from clipdense.engine.hooks import EvaluationHook
from clipdense.methods.blip.pretrainer import BlipPretrainer

with read_base():
    from .._base_.blip_scenes import *
    from .._base_.default_runtime import *
    from .._base_.scenes_captions import *

data_root = 'data/scenes'
num_images = 20_000

model = dict(
    type=BlipPretrainer,
    blip=small_blip,
    queue_size=1024,
    momentum=0.99,
    ramp_steps=300,
)
train_dataloader.update(batch_size=64)
train_dataloader['dataset'].update(
    urls=f'{data_root}/shards/train', samples_per_epoch=num_images, tokenizer=scene_ids
)
custom_hooks = dict(
    captions=dict(type=EvaluationHook, evaluations=caption_evaluations),
    pairs=dict(type=EvaluationHook, evaluations=pair_evaluations),
)
train_cfg = dict(max_steps=600)
param_scheduler.update(warmup=50)
optim_wrapper['optimizer'].update(lr=1.5e-3)
