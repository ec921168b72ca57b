"""A small BLIP for scenes: the ViT of clip_scenes, two layers of text, and the words of the captions; and how
it is evaluated, which is accuracy by similarity, by matching and by the names in generated captions, and
segmentation by Grad-CAM."""

from clipdense.data.scenes import SceneLabels
from clipdense.methods.blip.evaluation import BlipClassification
from clipdense.methods.blip.model import build_blip
from clipdense.methods.blip.tokenizer import CaptionIds

scene_text = dict(
    width=96,
    layers=2,
    num_heads=3,
    mlp_width=192,
    context_length=40,
    dropout=0.0,
    words=[
        *('red', 'green', 'blue', 'yellow', 'purple', 'orange', 'solid', 'striped', 'dotted', 'checked'),
        *('ringed', 'circle', 'square', 'triangle', 'star', 'cross', 'ring', 'plain', 'sandy', 'rough'),
        *('cloudy', 'woven', 'ground', 'background', 'wall', 'a', 'an', 'and', 'with', 'next', 'to', 'the'),
        *('left', 'right', 'of', 'above', 'below', 'on', 'in', 'front', 'against', 'there', 'is', 'picture'),
        *('photo', 'image', 'drawing', ','),
    ],
)
small_blip = dict(
    type=build_blip,
    size=dict(
        image=dict(
            image_size=32,
            patch_size=4,
            width=96,
            layers=3,
            num_heads=3,
            mlp_width=192,
            embed_dim=96,
            activation='gelu',
            flavour='slip',
        ),
        text=scene_text,
        embed_dim=96,
    ),
)
scene_ids = dict(type=CaptionIds, size=scene_text, longest=36)
caption_evaluations, pair_evaluations = [
    {
        f'{by}/{split}': dict(
            type=BlipClassification,
            dataset=dict(type=SceneLabels, split=split, num_images=320),
            by=by,
            name=f'{by}/{split}',
        )
        for by in kinds
        for split in ('base', 'novel', 'unseen')
    }
    for kinds in (('caption',), ('itc', 'itm'))
]
