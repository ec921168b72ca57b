"""Trained on the first half of the classes, tested on both halves: after ``few_shot``."""

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.engine.hooks import EvaluationHook
from clipdense.evaluation.base_to_new import ClassifierAccuracy

classes = 'base'
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations=dict(
            test=dict(
                type=ClassifierAccuracy,
                parts=dict(
                    base=dict(type=FewShotImages, data='{{data}}', split='test', classes='base'),
                    new=dict(type=FewShotImages, data='{{data}}', split='test', classes='new'),
                ),
            ),
        ),
    ),
)
