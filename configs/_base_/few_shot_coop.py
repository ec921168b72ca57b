"""CoOp: 16 context tokens that all classes share, after ``few_shot``."""

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.methods.prompt_learning.classifier import PromptClassifier
from clipdense.methods.prompt_learning.learner import CoOp

model = dict(
    type=PromptClassifier,
    clip='{{clip}}',
    learner=dict(type=CoOp, n_ctx=16),
    class_names=dict(type=FewShotImages, data='{{data}}', classes='{{classes}}'),
)
