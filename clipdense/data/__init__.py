"""Datasets, what is done to their images, and the preprocessor on the model's side.

Importing it registers everything, so that configs may use names.
"""

from . import benchmarks, classification, image_text, preprocessor, scenes, segmentation, shards, transforms

__all__ = [
    'benchmarks',
    'classification',
    'image_text',
    'preprocessor',
    'scenes',
    'segmentation',
    'shards',
    'transforms',
]
