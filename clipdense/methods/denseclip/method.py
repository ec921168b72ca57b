"""DenseCLIP's entry in the table of methods."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method


def recognize(keys: Iterable[str]) -> bool:
    """Whether these are tensor names of an official DenseCLIP: of a segmenter, or of a detector."""
    bare = {key.removeprefix('state_dict.').removeprefix('module.') for key in keys}
    return {'gamma', 'contexts'} <= bare and any(key.startswith('context_decoder.') for key in bare)


METHOD = Method(
    name='denseclip',
    task='segmentation',
    summary='class embeddings adapted to each image; their score map guides a Semantic FPN',
    learns_from='masks',
    paper='Rao et al. 2022 (arXiv 2112.01518)',
    recognize=recognize,
    layout='DenseCLIP (raoyongming/DenseCLIP)',
    tests={'masks': 'clipdense.evaluation.own_data:segmentation'},
    load='clipdense.methods.denseclip.checkpoint:from_file',
    no_graph='its context decoder rewrites the class embeddings for each image with sizes known in advance',
)
