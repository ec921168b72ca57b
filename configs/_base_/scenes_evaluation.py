"""How models that were pre-trained on scenes are measured: retrieval, and accuracy for each split.

Each split is scored among its own names and, generalised, among all names.
"""

from clipdense.data.scenes import SceneCaptions, SceneLabels
from clipdense.evaluation.classification import ZeroShotClassification
from clipdense.evaluation.retrieval import Retrieval

difficulty = 'standard'
num_val = 320  # images of each split that are written, and segmented
splits = ('base', 'novel', 'unseen')
templates = ('a {}', 'a picture of a {}')
scene_evaluations = {
    'retrieval': dict(type=Retrieval, dataset=dict(type=SceneCaptions, num_images=1000, stream='val')),
    **{
        f'{name}/{split}': dict(
            type=ZeroShotClassification,
            dataset=dict(type=SceneLabels, split=split, num_images=2 * num_val, all_names=all_names),
            templates=templates,
            name=f'{name}/{split}',
        )
        for split in splits
        for name, all_names in (('zero_shot', False), ('zero_shot_all', True))
    },
}
