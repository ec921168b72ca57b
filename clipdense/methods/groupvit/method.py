"""GroupViT's entry in the table of methods."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method, Option

_MARKS = (  # a tensor that only a GroupViT has: in the layouts of clipdense, NVlabs and Hugging Face
    'image.norm_patch.weight',
    'img_encoder.patch_embed.proj.weight',
    'vision_model.embeddings.patch_embeddings.projection.weight',
)


def recognize(keys: Iterable[str]) -> bool:
    """Whether these are tensor names of a GroupViT in one of its three layouts, with any prefix."""
    return any(f'.{key}'.endswith(tuple(f'.{mark}' for mark in _MARKS)) for key in keys)


METHOD = Method(
    name='groupvit',
    task='segmentation',
    summary='patches are assigned to learned groups; each group takes the class of the most similar text',
    learns_from='captions',
    paper='Xu et al. 2022 (arXiv 2202.11094)',
    recognize=recognize,
    layout='GroupViT (NVlabs, Hugging Face, clipdense)',
    tests={'masks': 'clipdense.evaluation.own_data:segmentation'},
    load='clipdense.methods.groupvit.checkpoint:from_file',
    build='clipdense.methods.groupvit.segmenter:build',
    export={
        'clipdense': 'clipdense.methods.groupvit.checkpoint:write_clipdense',
        'huggingface': 'clipdense.methods.groupvit.checkpoint:write_huggingface',
        'nvlabs': 'clipdense.methods.groupvit.checkpoint:write_nvlabs',
    },
    graph='clipdense.methods.groupvit.graph:graph',
    explain='clipdense.methods.groupvit.explain:explain',
    options=(Option('top_classes', 5, 'number of classes that are kept for each window'),),
)
