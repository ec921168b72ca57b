"""A source of class embeddings, as the table of methods has it."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method


def recognize(keys: Iterable[str]) -> bool:
    """Whether these are names of this method's weights."""
    return set(keys) == {'synonyms.weight'}


METHOD = Method(
    name='synonyms',
    task='classification',
    summary='class embeddings moved by one learned offset',
    learns_from='labeled images',
    recognize=recognize,
    layout='synonyms (toymethods)',
    embedder='toymethods.synonyms.embedder:from_file',
)
