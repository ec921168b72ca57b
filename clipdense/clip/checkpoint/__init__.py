"""Read and write CLIP checkpoints in any official format.

``load`` finds and reads weights and builds the model; ``layouts`` has the key tables; ``config_files`` reads
what tensors do not specify and ``settings`` decides it; ``convert`` writes every layout.
"""

from .convert import convert
from .load import OpenedWeights, describe, load, open_weights, save
from .settings import Overrides

__all__ = ['OpenedWeights', 'Overrides', 'convert', 'describe', 'load', 'open_weights', 'save']
