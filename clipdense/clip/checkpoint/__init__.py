"""Read and write CLIP checkpoints in any official format.

``loading`` finds and reads weights and builds the model; ``joined`` makes the weights of installed packages;
``layouts`` has the key tables; ``config_files`` reads what tensors do not specify and ``settings`` decides
it; ``saving`` writes the format of clipdense and ``converting`` every layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipdense.utils.lazy import lazy_names

if TYPE_CHECKING:
    from .contents import AnyClip, not_full
    from .converting import convert
    from .loading import OpenedWeights, load, load_any, open_weights
    from .saving import describe, save
    from .settings import Overrides

_HOMES = {
    'AnyClip': 'clipdense.clip.checkpoint.contents',
    'not_full': 'clipdense.clip.checkpoint.contents',
    'convert': 'clipdense.clip.checkpoint.converting',
    'OpenedWeights': 'clipdense.clip.checkpoint.loading',
    'load': 'clipdense.clip.checkpoint.loading',
    'load_any': 'clipdense.clip.checkpoint.loading',
    'open_weights': 'clipdense.clip.checkpoint.loading',
    'describe': 'clipdense.clip.checkpoint.saving',
    'save': 'clipdense.clip.checkpoint.saving',
    'Overrides': 'clipdense.clip.checkpoint.settings',
}

__all__ = [
    'AnyClip',
    'OpenedWeights',
    'Overrides',
    'convert',
    'describe',
    'load',
    'load_any',
    'not_full',
    'open_weights',
    'save',
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
