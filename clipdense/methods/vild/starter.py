"""The config of ViLD on boxes of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipdense.data.detection.starting import BoxTraining

if TYPE_CHECKING:
    from clipdense.data.starting import Start

_IMPORTS = (
    'from clipdense.clip.class_embeddings import PromptEnsemble',
    'from clipdense.engine.hooks import VocabularyHook',
)


def vild(start: Start) -> str:
    """The text of the config: a small detector from scratch, which learns from names alone."""
    training = BoxTraining(start, epochs=10, most=4000)
    model = f"""
weights = {start.weights!r}  # CLIP whose text tower embeds the class names

model.merge(
    dict(
        clip='{{{{weights}}}}',
        data_preprocessor=dict(pad_size_divisor=32),
        rpn_head=dict(anchor_generator=dict(scales=[3, 6], ratios=[0.5, 1.0, 2.0])),
        roi_head=dict(bbox_head=dict(variant='text', embed_dim={int(start.clip.embed_dim)})),
    )
)
"""
    more = f"""
proposal_dataset = {start.layout.train.text(transforms=f'[{training.resize}]')}
custom_hooks = dict(
    vocabulary=dict(type=VocabularyHook, embedder=dict(type=PromptEnsemble, templates='vild'))
)
"""
    return training.page('vild', 'A detector on boxes of your own.', model, more, _IMPORTS)
