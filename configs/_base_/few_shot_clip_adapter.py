"""CLIP-Adapter on image embeddings, after ``few_shot``: AdamW instead of SGD."""

from torch.optim import AdamW

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.adapters.classifier import AdapterClassifier
from clipdense.methods.adapters.residual import ClipAdapter

epochs = 20
lr = 1e-3
model = dict(
    type=AdapterClassifier,
    clip='{{clip}}',
    adapter=dict(type=ClipAdapter, sides='image', ratio=0.2),
    class_names=dict(type=FewShotImages, data='{{data}}', classes='{{classes}}'),
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr='{{lr}}', eps=1e-4, weight_decay=0.01),
)
param_scheduler = dict(type=WarmupCosine, warmup=0)
