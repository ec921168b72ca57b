"""GLIPv2 that describes scenes of 96 pixels, learned beside the boxes of base classes.

    clipdense scenes data/scenes_detection --train 4000 --image-size 96
    clipdense train contrastive/clip_scenes
    clipdense train glip/glip_scenes_captions
    clipdense train glip/glipv2_scenes_captions

Three captions to an image with boxes (10,000 and 3,349 in an epoch); captions also name novel classes.
(``glip_scenes_captions``, which it starts from, learns boxes of phrases in captions.)

Cost: 3 CPU-minutes in one thread.
Score: seed 0, a greedy caption names the object 0.512 / 0.541 / 0.000 on base / novel / unseen; AP50 among
all 64 names 0.588 / 0.697 / 0.600 (0.612 / 0.712 / 0.630 before).  docs/research/learning_glip.md.
"""

from mmengine.config import read_base

from clipdense.data.detection.mixture import DetectionMixture
from clipdense.data.detection.whole_images import CaptionDetection
from clipdense.data.scenes import SceneCaptions
from clipdense.engine.hooks import EvaluationHook
from clipdense.evaluation.captioning import CaptionQuality
from clipdense.methods.glip.v2.detector import GLIPv2

with read_base():
    from .._base_.default_runtime import *
    from .._base_.glip_scenes import *
    from .._base_.scenes_detection import *

model.update(
    type=GLIPv2,
    objectives=dict(captions=dict(image_size=96)),
    start='work_dirs/glip_scenes_captions/glip.safetensors',
)
boxes = train_dataloader.pop('dataset')
train_dataloader.update(
    batch_size=16,
    dataset=dict(
        type=DetectionMixture,
        datasets=dict(
            boxes=boxes,
            captions=dict(
                type=CaptionDetection,
                captions=dict(type=SceneCaptions, num_images=20_000, seed=1, image_size=96),
                image_size=96,
            ),
        ),
        weights=dict(captions=0.5),
    ),
)
train_cfg = dict(max_steps=450)
custom_hooks['evaluation'] = dict(
    type=EvaluationHook,
    evaluations={
        f'captions/{split}': dict(
            type=CaptionQuality,
            dataset=dict(
                type=SceneCaptions,
                num_images=320,
                splits=(split,),
                stream='val',
                vary_captions=False,
                image_size=96,
            ),
            rules=dict(search='greedy'),
            batch_size=64,
            name=f'captions/{split}',
        )
        for split in ('base', 'novel', 'unseen')
    },
)
