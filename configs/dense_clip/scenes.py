"""Every training-free method on scenes, for a CLIP that was pre-trained on their captions.

    clipdense test dense_clip/scenes WEIGHTS

Each split is segmented among its own names and the background, which is represented by its grounds ("sandy
ground"), as published protocols use names of stuff.  ``_plain`` keeps the last block's residual and
feed-forward, ``_reduced`` drops them: the largest single effect that the literature reports.
Cost: 5 to 9 CPU-seconds for each method on the three splits of 320 images of 32 pixels.
Score: docs/research/dense_clip_scenes.md.
"""

from mmengine.config import read_base

from clipdense.data.scenes import SceneSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.methods.dense_clip.evaluation import ZeroShotSegmentation
from clipdense.methods.dense_clip.segmenter import DenseCLIP

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_evaluation import *

model = dict(type=DenseCLIP, clip='clip.safetensors')  # replaced by WEIGHTS
grounds = [f'{ground} ground' for ground in ('plain', 'sandy', 'rough', 'cloudy', 'woven')]
methods = {
    **{
        f'{method}_{flavor}': dict(method=method, options=dict(residual=flavor == 'plain'))
        for method in ('vanilla', 'maskclip', 'sclip', 'clearclip', 'naclip')
        for flavor in ('plain', 'reduced')
    },
    **{
        method: dict(method=method)
        for method in ('maskclip_denoised', 'gem', 'clip_surgery', 'sc_clip', 'resclip')
    },
}
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations={
            f'{method}/{split}': dict(
                type=ZeroShotSegmentation,
                dataset=dict(type=SceneSegmentation, split=split, num_images=num_val),
                slide=dict(),
                templates=templates,
                background_words=grounds,
                name=f'{method}/{split}',
                **settings,
            )
            for method, settings in methods.items()
            for split in splits
        },
    ),
)
