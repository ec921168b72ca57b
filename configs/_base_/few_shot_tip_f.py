"""Tip-Adapter-F, after ``few_shot``: the keys of a cache that ``clipdense adapt`` made are trained."""

from torch.optim import AdamW

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.adapters.classifier import AdapterClassifier

cache = 'tip.safetensors'
epochs = 20
lr = 1e-3
model = dict(
    type=AdapterClassifier,
    clip='{{clip}}',
    adapter='{{cache}}',
    class_names=dict(type=FewShotImages, data='{{data}}', classes='{{classes}}'),
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr='{{lr}}', eps=1e-4, weight_decay=0.01),
)
param_scheduler = dict(type=WarmupCosine, warmup=0)
