"""CoCoOp: a context that each image shifts, after ``few_shot``."""

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.methods.prompt_learning.classifier import PromptClassifier
from clipdense.methods.prompt_learning.cocoop import CoCoOp

epochs = 10
model = dict(
    type=PromptClassifier,
    clip='{{clip}}',
    learner=dict(type=CoCoOp, init='a photo of a'),
    class_names=dict(type=FewShotImages, data='{{data}}', classes='{{classes}}'),
)
