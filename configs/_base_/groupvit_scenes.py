"""A small GroupViT for scenes: one grouping stage, eight groups, on three blocks of the CLIP of clip_scenes,
whose weights it starts from."""

from clipdense.data.scenes import SceneSegmentation
from clipdense.methods.groupvit.evaluation import GroupSegmentation
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.pretrainer import GroupVitPretrainer

model = dict(
    type=GroupVitPretrainer,
    clip=dict(
        type=build_group_vit,
        spread=True,
        size=dict(
            image=dict(
                image_size=32,
                patch_size=4,
                stages=[
                    dict(depth=3, width=96, num_heads=3, group_tokens=8, groups=8),
                    dict(depth=0, width=96, num_heads=3),  # with a block here groups learn of one another
                ],
                embed_dim=96,
                projector_width=384,
                mlp_ratio=2.0,
            ),
            text=dict(width=96, layers=2, num_heads=3, mlp_width=192, embed_dim=96, activation='gelu'),
        ),
    ),
    start='work_dirs/clip_scenes/clip.safetensors',
    equal_texts_match=True,  # 48 phrases: each is in many captions of a batch
)
train_cfg = dict(max_steps=600)
group_evaluations, learned_evaluations = [
    {
        f'{name}/{split}': dict(
            type=GroupSegmentation,
            dataset=dict(type=SceneSegmentation, split=split, num_images=320),
            threshold=threshold,
            tuning=dict(type=SceneSegmentation, split='base', num_images=320, stream='tuning'),
            slide=dict(),
            templates=('a {}', 'a picture of a {}'),
            name=f'{name}/{split}',
        )
        for name, threshold in thresholds.items()
        for split in ('base', 'novel', 'unseen')
    }
    for thresholds in (
        {'segmentation': 'shared', 'automatic': 'automatic'},
        {'learned': None},  # a background that was learned needs no threshold
    )
]
