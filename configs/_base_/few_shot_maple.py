"""MaPLe: 2 prompt tokens in the first 9 blocks of both towers, after ``few_shot``."""

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.methods.prompt_learning.classifier import PromptClassifier
from clipdense.methods.prompt_learning.maple import MaPLe

epochs = 5
lr = 3.5e-3
depth = 9
model = dict(
    type=PromptClassifier,
    clip='{{clip}}',
    learner=dict(type=MaPLe, n_ctx=2, depth='{{depth}}', init='a photo of a'),
    class_names=dict(type=FewShotImages, data='{{data}}', classes='{{classes}}'),
)
