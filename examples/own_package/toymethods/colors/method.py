"""A trained segmenter with a checkpoint layout of its own, as the table of methods has it."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method


def recognize(keys: Iterable[str]) -> bool:
    """Whether these are names of this method's weights."""
    return {'colors.weight', 'colors.bias'} <= set(keys)


METHOD = Method(
    name='colors',
    task='segmentation',
    summary='one layer from colors to the joint space',
    learns_from='masks',
    recognize=recognize,
    layout='colors (toymethods)',
    load='toymethods.colors.checkpoint:from_file',
    export={'colors': 'toymethods.colors.checkpoint:write'},
)
