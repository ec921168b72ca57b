"""The BLIP of ``blip_scenes_clip`` fine-tuned to generate captions, on 2,000 other scenes.

    clipdense scenes data/scenes --train 20000
    clipdense train contrastive/clip_scenes
    clipdense train blip/blip_scenes_clip
    clipdense scenes data/scenes_clean --train 2000 --seed 1
    clipdense train blip/blip_scenes_caption

Cost: 161 CPU-seconds in one thread, with its evaluation.
Score: three seeds, from weights that were pre-trained on captions of which half were wrong, captions that
name the object 0.570 / 0.621 / 0.000 on base / novel / unseen (0.393 / 0.435 / 0.000 before).
docs/research/learning_blip.md.
"""

from mmengine.config import read_base

from clipdense.engine.hooks import EvaluationHook
from clipdense.methods.blip.finetuning import BlipCaptionTrainer

with read_base():
    from .._base_.blip_scenes import *
    from .._base_.default_runtime import *
    from .._base_.scenes_captions import *

data_root = 'data/scenes_clean'
num_images = 2000

model = dict(
    type=BlipCaptionTrainer, blip='work_dirs/blip_scenes_clip/blip.safetensors', prompt='a picture of '
)
scene_ids.update(prompt='a picture of ', longest=39)
train_dataloader['dataset'].update(
    urls=f'{data_root}/shards/train', samples_per_epoch=num_images, tokenizer=scene_ids
)
train_cfg = dict(max_steps=600)
param_scheduler.update(warmup=10)
optim_wrapper['optimizer'].update(lr=1e-3)
custom_hooks = dict(evaluation=dict(type=EvaluationHook, evaluations=caption_evaluations))
