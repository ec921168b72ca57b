"""Zero-shot CIFAR-100 with any CLIP weights: the example of OpenAI's CLIP notes, on files that are on disk.

    clipdense test contrastive/zero_shot_cifar100 WEIGHTS

Expects torchvision's folder data/cifar-100-python; nothing is downloaded.  Another place is
``-o custom_hooks.evaluation.evaluations.cifar100.dataset.root=FOLDER``.
Cost: 10,000 images once through the image tower.
Not run here: needs the weights of a published CLIP and CIFAR-100.
"""

from mmengine.config import read_base

from clipdense.data.classification.torchvision_sets import TorchvisionDataset
from clipdense.engine.hooks import EvaluationHook
from clipdense.evaluation.classification import ZeroShotClassification
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

with read_base():
    from .._base_.default_runtime import *

model = dict(type=ContrastivePretrainer, clip='ViT-B-32/openai')  # replaced by WEIGHTS
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations=dict(
            cifar100=dict(
                type=ZeroShotClassification,
                dataset=dict(type=TorchvisionDataset, name='CIFAR100', root='data', train=False),
                templates='cifar',
                name='cifar100',
            ),
        ),
    ),
)
