"""A small CLIP with a ResNet, pre-trained on the captions of scenes: what ``clipdense quickstart`` runs.

    clipdense scenes data/scenes --train 20000
    clipdense train contrastive/clip_scenes_quickstart

Cost: 6.5 minutes on 2 cores of an AMD EPYC (AVX2, fp32) for the whole quickstart, LSeg after it included.
Score: zero-shot accuracy on unseen combinations 0.886 among their own 16 names (chance 0.062), 0.505 among
all 64; base 0.769 / 0.691, novel 0.883 / 0.734; mIoU without masks 0.083 / 0.101 / 0.090, the background
counted (seed 0).

A convolutional tower, because it learns shapes from few images; ``clip_scenes`` trains a transformer for
longer.
"""

from mmengine.config import read_base

from clipdense.clip.model import build_clip
from clipdense.data.scenes import SceneSegmentation
from clipdense.engine.hooks import EvaluationHook
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer
from clipdense.methods.dense_clip.evaluation import ZeroShotSegmentation

with read_base():
    from .._base_.default_runtime import *
    from .._base_.scenes_captions import *
    from .._base_.scenes_evaluation import *

data_root = 'data/scenes'
num_images = 20_000

model = dict(
    type=ContrastivePretrainer,
    clip=dict(
        type=build_clip,
        size=dict(
            image=dict(image_size=32, width=16, layers=(1, 1, 1, 1), num_heads=8, embed_dim=96),
            text=dict(width=96, layers=2, num_heads=3, mlp_width=384, embed_dim=96),
        ),
    ),
)
train_dataloader.update(batch_size=128)
train_dataloader['dataset'].update(urls=f'{data_root}/shards/train', samples_per_epoch=num_images)
train_cfg = dict(max_steps=1500)
optim_wrapper['optimizer'].update(lr=2e-3)
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations={
            **scene_evaluations,
            **{
                f'segmentation/{split}': dict(
                    type=ZeroShotSegmentation,
                    dataset=dict(type=SceneSegmentation, split=split, num_images=num_val),
                    slide=dict(),
                    templates=templates,
                    name=f'segmentation/{split}',
                )
                for split in splits
            },
        },
    ),
)
