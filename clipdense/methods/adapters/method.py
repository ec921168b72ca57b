"""Entries of the adapters in the table of methods."""

from __future__ import annotations

from collections.abc import Iterable

from clipdense.methods import Method, Option

CACHE_KEYS = {'cache.keys', 'cache.labels'}
OFFICIAL_KEYS = {f'{prefix}fc.{layer}.weight' for prefix in ('', 'adapter.') for layer in (0, 2)}
_SIDES = [{f'{side}.fc.0.weight', f'{side}.fc.2.weight'} for side in ('image', 'text')]
_ROOM = 'clipdense.methods.adapters'
_CROPS = Option('crops', 1, 'random crops of an image or box that are averaged; 1 is the center crop')
_KEYS = Option('keys_per_class', 1, 'groups of pixels of a class in a mask, each with a key')
_CACHE = (
    Option('alpha', None, 'factor on the affinities, in units of the logits [default: 1, or searched]'),
    Option('beta', None, 'sharpness [default: 5.5, or searched]'),
    Option('balance', True, 'weight keys so that classes with few keys count as much as others'),
    Option('max_alpha', 10.0, 'end of the grid of alpha, doubled while the best is there'),
    Option('max_beta', 10.0, 'end of the grid of beta, doubled while the best is there'),
    _KEYS,
    _CROPS,
)
_TRAINING = (
    Option(
        'samples',
        None,
        'what is trained on: pixels of each class in a mask [default: 100], copies of each box with moved '
        'edges [default: 10], 0 for the keys themselves; of images the crops',
    ),
    Option('epochs', 20, 'passes over the examples'),
    Option('lr', 1e-3, 'initial learning rate'),
)


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
        adapt=f'{_ROOM}.adapt:tip',
        commands={'tip-cache': f'{_ROOM}.commands:tip_cache'},
        options=_CACHE,
    ),
    Method(
        name='tip_f',
        task='classification',
        summary='tip with keys that are trained',
        learns_from='a few labeled images, boxes or masks',
        paper='Zhang et al. 2022 (arXiv 2207.09519)',
        adapt=f'{_ROOM}.adapt:tip_f',
        options=(*_CACHE, *_TRAINING),
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
        adapt=f'{_ROOM}.adapt:clip_adapter',
        options=(
            Option('sides', 'image', 'what is adapted: image, text or both'),
            Option('ratio', 0.2, 'weight of the adapted embedding, 0 to 1'),
            Option('reduction', 4, 'dimension of the embeddings over the width of the bottleneck'),
            Option('final_relu', True, 'the second ReLU, as in the official code'),
            _KEYS,
            _CROPS,
            *_TRAINING,
        ),
    ),
)
