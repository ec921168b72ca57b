"""LSeg's entry in the table of methods."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method


def recognize(keys: Iterable[str]) -> bool:
    """Whether these are tensor names of an official LSeg, with or without the prefix 'net.'."""
    bare = {key.removeprefix('state_dict.').removeprefix('net.') for key in keys}
    return {'scratch.head1.weight', 'scratch.refinenet1.out_conv.weight'} <= bare


METHOD = Method(
    name='lseg',
    task='segmentation',
    summary='pixel embeddings against text embeddings, trained on masks of seen classes',
    learns_from='masks of some classes',
    paper='Li et al. 2022 (arXiv 2201.03546)',
    recognize=recognize,
    layout='LSeg (isl-org/lang-seg)',
    starters={'lseg': 'clipdense.methods.lseg.starter:lseg'},
    tests={'masks': 'clipdense.evaluation.own_data:segmentation'},
    load='clipdense.methods.lseg.checkpoint:from_file',
    graph='clipdense.methods.lseg.graph:graph',
)
