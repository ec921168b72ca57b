"""ViLD's entry in the table of methods."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method, Option

_DETPRO = {'roi_head.projection.weight', 'roi_head.bg_embedding.weight'}
_OURS = {'roi_head.bbox_head.projection.weight', 'roi_head.bbox_head.background'}


def recognize(keys: Iterable[str]) -> bool:
    """Whether these are tensor names of DetPro's ViLD, or of a training checkpoint (needs a config)."""
    keys = set(keys)
    return keys >= _DETPRO or keys >= _OURS


METHOD = Method(
    name='vild',
    task='detection',
    summary='region embeddings against text embeddings, distilled from a CLIP',
    learns_from='boxes of some classes, and a CLIP',
    paper='Gu et al. 2022 (arXiv 2104.13921)',
    recognize=recognize,
    layout="ViLD (DetPro's release)",
    tests={
        'boxes': 'clipdense.evaluation.own_data:detection',
        'phrases': 'clipdense.evaluation.own_data:phrases',
        'phrase masks': 'clipdense.evaluation.own_data:phrase_masks',
    },
    load='clipdense.methods.vild.checkpoint:from_file',
    graph='clipdense.methods.vild.graph:graph',
    build='clipdense.methods.vild.predictor:build',
    starters={'vild': 'clipdense.methods.vild.starter:vild'},
    commands={'regions': 'clipdense.methods.vild.commands:regions'},
    options=(Option('image_size', None, 'longer side of resized images; by default as the weights say'),),
)
