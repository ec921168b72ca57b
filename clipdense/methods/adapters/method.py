"""Entries of the adapters in the table of methods."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method

CACHE_KEYS = {'cache.keys', 'cache.labels'}
OFFICIAL_KEYS = {f'{prefix}fc.{layer}.weight' for prefix in ('', 'adapter.') for layer in (0, 2)}
_SIDES = [{f'{side}.fc.0.weight', f'{side}.fc.2.weight'} for side in ('image', 'text')]
_ROOM = 'clipdense.methods.adapters'


def is_cache(keys: Iterable[str]) -> bool:
    """Whether these are tensor names of a cache."""
    return set(keys) == CACHE_KEYS


def is_clip_adapter(keys: Iterable[str]) -> bool:
    """Whether these are tensor names of a CLIP-Adapter, ours or the official code's."""
    keys = set(keys)
    ours = any(side <= keys for side in _SIDES) and keys <= set.union(*_SIDES)
    return ours or (len(keys) == 2 and keys <= OFFICIAL_KEYS and len({key[-8] for key in keys}) == 2)


METHODS = (
    Method(
        name='tip',
        task='classification',
        summary='a cache of embeddings of labeled images, boxes or masks is added to the class scores',
        paper='Zhang et al. 2022 (arXiv 2207.09519)',
        recognize=is_cache,
        layout='Tip-Adapter (a cache)',
        adapter=f'{_ROOM}.files:cache_from_file',
    ),
    Method(
        name='clip_adapter',
        task='classification',
        summary='a residual bottleneck on image embeddings, class embeddings or both',
        learns_from='a few labeled images, boxes or masks',
        paper='Gao et al. 2021 (arXiv 2110.04544)',
        recognize=is_clip_adapter,
        layout='CLIP-Adapter (also the official code)',
        adapter=f'{_ROOM}.files:clip_adapter_from_file',
    ),
)
