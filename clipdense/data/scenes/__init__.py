"""Synthetic images of colored, textured shapes on textured backgrounds, drawn from a seed.

A class is a phrase such as "red striped star".  The combinations are split in three: **base** (captions,
masks, boxes), **novel** (in training captions and, unlabeled, in images, but not in masks or boxes) and
**unseen** (nowhere in any training).
"""

from .combinations import DIFFICULTIES, SPLITS, Difficulty
from .datasets import SceneCaptions, SceneLabels, SceneSegmentation
from .scene import Scene, Scenes
from .writers import ImageSet, standard_sets, write_coco, write_scenes, write_shards, write_voc

__all__ = [
    'DIFFICULTIES',
    'SPLITS',
    'Difficulty',
    'ImageSet',
    'Scene',
    'SceneCaptions',
    'SceneLabels',
    'SceneSegmentation',
    'Scenes',
    'standard_sets',
    'write_coco',
    'write_scenes',
    'write_shards',
    'write_voc',
]
