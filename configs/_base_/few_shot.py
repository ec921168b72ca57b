"""Few labeled images of each class: data, schedule and evaluation of CoOp and its successors.

``-o data=MY_FOLDER`` names a folder of class folders (or of ``train``, ``val`` and ``test`` with such
folders), a ``split_zhou_*.json`` of CoOp, or with ``-o 'data={"type": ...}'`` any labeled dataset.
"""

from torch.optim import SGD

from clipdense.data.classification.few_shot import FewShotImages
from clipdense.data.transforms import TrainCrop
from clipdense.engine.hooks import EvaluationHook
from clipdense.engine.optimizer import EpochCosine, PrecisionOptimWrapper
from clipdense.evaluation.base_to_new import ClassifierAccuracy

data = 'data/images'
clip = 'ViT-B-16/openai'
shots = 16
classes = 'all'  # 'base' trains on the first half
image_size = 224
epochs = 50
lr = 2e-3

train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    dataset=dict(
        type=FewShotImages,
        data='{{data}}',
        split='train',
        shots='{{shots}}',
        classes='{{classes}}',
        transform=dict(type=TrainCrop, size='{{image_size}}', scale=(0.08, 1.0), flip=0.5),
    ),
)
train_cfg = dict(max_epochs='{{epochs}}')
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=SGD, lr='{{lr}}', momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(type=EpochCosine, warmup=1, start=1e-5)
custom_hooks = dict(
    evaluation=dict(
        type=EvaluationHook,
        evaluations=dict(
            test=dict(
                type=ClassifierAccuracy,
                parts=dict(
                    test=dict(type=FewShotImages, data='{{data}}', split='test', classes='{{classes}}')
                ),
            ),
        ),
    ),
)
