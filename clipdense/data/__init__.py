"""Datasets, what is done to their pictures, and the preprocessor on the model's side.

Importing it registers everything, so that configs may use names.
"""

from . import classification, image_text, preprocessor, scenes, segmentation, shards, transforms

__all__ = [
    'classification',
    'image_text',
    'preprocessor',
    'scenes',
    'segmentation',
    'shards',
    'transforms',
]
