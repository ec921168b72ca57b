"""ProxyCLIP on scenes, through a small backbone that has seen nothing but their images.

    python tools/proxy_scenes.py --out work_dirs/proxy_scenes/proxy.safetensors
    clipdense test dense_clip/proxyclip_scenes WEIGHTS

``untrained`` is the same backbone as it was before its training, the control.
Cost: 116 CPU-seconds for the backbone, 20 for both on the three splits of 320 images of 32 pixels.
Score: docs/research/dense_clip_scenes.md.
"""

from mmengine.config import read_base

from clipdense.data.scenes import SceneSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.methods.dense_clip.evaluation import ZeroShotSegmentation
from clipdense.methods.dense_clip.proxy import TimmProxy
from clipdense.methods.dense_clip.segmenter import DenseCLIP

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_evaluation import *

model = dict(type=DenseCLIP, clip='clip.safetensors')  # replaced by WEIGHTS
proxy = 'work_dirs/proxy_scenes/proxy.safetensors'
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations={
            f'{name}/{split}': dict(
                type=ZeroShotSegmentation,
                dataset=dict(type=SceneSegmentation, split=split, num_images=num_val),
                method='proxyclip',
                proxy=dict(type=TimmProxy, name=proxy, weights=trained),
                slide=dict(),
                templates=templates,
                background_words=[
                    f'{ground} ground' for ground in ('plain', 'sandy', 'rough', 'cloudy', 'woven')
                ],
                name=f'{name}/{split}',
            )
            for name, trained in (('proxyclip', True), ('untrained', False))
            for split in splits
        },
    ),
)
