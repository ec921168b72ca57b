"""CLIP weights in and out: any official format becomes a model that is ready, and back.

``load`` finds, reads and builds; ``layouts`` has the key tables; ``settings`` decides what tensors do not
specify, ``config_files`` reads it; ``convert`` writes every layout.
"""

from .convert import convert
from .load import OpenedWeights, describe, load, open_weights, save
from .settings import Overrides

__all__ = ['OpenedWeights', 'Overrides', 'convert', 'describe', 'load', 'open_weights', 'save']
