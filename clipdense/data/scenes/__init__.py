"""Synthetic images of colored, textured shapes on textured backgrounds, drawn from a seed.

A class is a phrase such as "red striped star".  The combinations are split in three: **base** (captions,
masks, boxes), **novel** (in training captions and, unlabeled, in images, but not in masks or boxes) and
**unseen** (nowhere in any training).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipdense.utils.lazy import lazy_names

if TYPE_CHECKING:
    from .combinations import DIFFICULTIES, SPLITS, Difficulty
    from .datasets import SceneCaptions, SceneLabels, SceneSegmentation
    from .questions import SceneQuestions
    from .scene import Scene, Scenes
    from .writers import ImageSet, standard_sets, write_coco, write_scenes, write_shards, write_voc

_HOMES = {
    'DIFFICULTIES': 'clipdense.data.scenes.combinations',
    'SPLITS': 'clipdense.data.scenes.combinations',
    'Difficulty': 'clipdense.data.scenes.combinations',
    'SceneCaptions': 'clipdense.data.scenes.datasets',
    'SceneLabels': 'clipdense.data.scenes.datasets',
    'SceneQuestions': 'clipdense.data.scenes.questions',
    'SceneSegmentation': 'clipdense.data.scenes.datasets',
    'Scene': 'clipdense.data.scenes.scene',
    'Scenes': 'clipdense.data.scenes.scene',
    'ImageSet': 'clipdense.data.scenes.writers',
    'standard_sets': 'clipdense.data.scenes.writers',
    'write_coco': 'clipdense.data.scenes.writers',
    'write_scenes': 'clipdense.data.scenes.writers',
    'write_shards': 'clipdense.data.scenes.writers',
    'write_voc': 'clipdense.data.scenes.writers',
}

__all__ = [
    'DIFFICULTIES',
    'SPLITS',
    'Difficulty',
    'ImageSet',
    'Scene',
    'SceneCaptions',
    'SceneLabels',
    'SceneQuestions',
    'SceneSegmentation',
    'Scenes',
    'standard_sets',
    'write_coco',
    'write_scenes',
    'write_shards',
    'write_voc',
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
