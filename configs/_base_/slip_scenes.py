"""How SLIP is compared with CLIP on scenes: the ResNet of the quickstart, the views, and the evaluations,
which are accuracy by names, of a linear classifier and of the nearest images, and segmentation without masks.

The views keep what classes are named by: most of the objects, their colors and textures.
"""

from clipdense.clip.model import build_clip
from clipdense.data.scenes import SceneLabels, SceneSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.evaluation.classification import ZeroShotClassification
from clipdense.evaluation.probing import LinearProbe, NearestNeighbors
from clipdense.methods.dense_clip.evaluation import ZeroShotSegmentation
from clipdense.methods.slip.views import SimClrView

small_clip = dict(
    type=build_clip,
    size=dict(
        image=dict(image_size=32, width=16, layers=(1, 1, 1, 1), num_heads=8, embed_dim=96),
        text=dict(width=96, layers=2, num_heads=3, mlp_width=384, embed_dim=96),
    ),
)
scene_views = {
    name: dict(type=SimClrView, size=32, scale=(0.4, 1.0), jitter=(0.2, 0.2, 0.2, 0.0), gray=0.0, blur=0.0)
    for name in ('first', 'second')
}
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations={
            **{
                f'{name}/{split}': dict(
                    type=ZeroShotClassification,
                    dataset=dict(type=SceneLabels, split=split, num_images=640, all_names=all_names),
                    templates=('a {}', 'a picture of a {}'),
                    name=f'{name}/{split}',
                )
                for split in ('base', 'novel', 'unseen')
                for name, all_names in (('zero_shot', False), ('zero_shot_all', True))
            },
            **{
                f'{name}/{split}': dict(
                    type=probe,
                    train=dict(type=SceneLabels, split=split, num_images=1280, stream='probe'),
                    dataset=dict(type=SceneLabels, split=split, num_images=640),
                    name=f'{name}/{split}',
                )
                for split in ('base', 'novel', 'unseen')
                for name, probe in (('linear', LinearProbe), ('knn', NearestNeighbors))
            },
            **{
                f'segmentation/{split}': dict(
                    type=ZeroShotSegmentation,
                    dataset=dict(type=SceneSegmentation, split=split, num_images=320),
                    slide=dict(),
                    templates=('a {}', 'a picture of a {}'),
                    name=f'segmentation/{split}',
                )
                for split in ('base', 'novel', 'unseen')
            },
        },
    ),
)
