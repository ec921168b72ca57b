"""ViLD in 20 epochs, the schedule of DetPro's comparison: 16 images a step, shorter side 640 to 800."""

from mmengine.optim import LinearLR, MultiStepLR
from torch.optim import SGD

from clipdense.data.detection.transforms import RandomFlip, RandomResize, Resize
from clipdense.engine.optimizer import PrecisionOptimWrapper

train_transforms = [
    dict(type=RandomResize, scale=[(1333, 640), (1333, 800)]),
    dict(type=RandomFlip, prob=0.5),
]
test_transforms = [dict(type=Resize, scale=(1333, 800), keep_ratio=True)]
train_cfg = dict(max_epochs=20)
optim_wrapper = dict(
    type=PrecisionOptimWrapper, optimizer=dict(type=SGD, lr=0.02, momentum=0.9, weight_decay=2.5e-5)
)
param_scheduler = dict(
    warmup=dict(type=LinearLR, start_factor=0.001, by_epoch=False, end=500),
    decay=dict(type=MultiStepLR, by_epoch=True, milestones=[16], gamma=0.1),
)
