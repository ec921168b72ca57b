"""Read and write CLIP checkpoints in any official format.

``load`` finds and reads weights and builds the model; ``joined`` makes the weights of installed packages;
``layouts`` has the key tables; ``config_files`` reads what tensors do not specify and ``settings`` decides
it; ``save`` writes the format of clipdense and ``convert`` every layout.
"""

from .contents import AnyClip, not_full
from .convert import convert
from .load import OpenedWeights, load, load_any, open_weights
from .save import describe, save
from .settings import Overrides

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
