"""How DenseCLIP was released to train on ADE20K: 80,000 steps of 4 images on each of 8 GPUs.

The rate of the optimizer is that of the image tower, a tenth of the rest; the text tower is frozen.  Left
out: color distortion of the images, and the lower limit of 1e-6 on the rate.

Source: raoyongming/DenseCLIP ``segmentation/configs``.
"""

from mmengine.optim import LinearLR, PolyLR
from torch.optim import AdamW

from clipdense.data.segmentation.crops import SegmentationCrops
from clipdense.data.segmentation.published import BenchmarkSegmentation
from clipdense.data.segmentation.published.training import BenchmarkTraining
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.denseclip.segmenter import ContextAwareSegmenter
from clipdense.methods.lseg.training import ScratchFaster

data_root = 'data/ADEChallengeData2016'

model = dict(
    type=ContextAwareSegmenter,
    class_names='ade20k',
    clip='RN50/openai',
    slide=dict(short_side=512, long_side=2048, window=512, stride=341),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    dataset=dict(
        type=SegmentationCrops,
        dataset=dict(type=BenchmarkTraining, benchmark='ade20k', root=data_root),
        size=512,
        long_side=683,
        scale=(0.5, 2.0),
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(type=BenchmarkSegmentation, benchmark='ade20k', root=data_root),
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    constructor=ScratchFaster,
    precision='fp32',
    optimizer=dict(type=AdamW, lr=1e-5, weight_decay=1e-4),
    paramwise_cfg=dict(scratch_lr=10.0),
)
param_scheduler = dict(
    warmup=dict(type=LinearLR, start_factor=1e-6, by_epoch=False, end=1500),
    decay=dict(type=PolyLR, power=0.9, by_epoch=False, begin=0, end=80_000),
)
train_cfg = dict(max_steps=80_000)
sync_bn = True
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook))
