"""CamVid's street photographs (11 classes, PASCAL VOC layout): data, optimizer and evaluation."""

from torch.optim import AdamW

from clipdense.data.segmentation.crops import SegmentationCrops, ZeroShotSplit
from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.lseg.training import ScratchFaster

data_root = 'data/camvid'
seen = None  # all but the unseen ones
unseen = []  # held out in training
crop = 128  # pixels
long_side = 240
scale = (0.7, 1.6)

train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    dataset=dict(
        type=SegmentationCrops,
        dataset=dict(
            type=ZeroShotSplit,
            dataset=dict(type=VOCSegmentation, root='{{data_root}}', split='train'),
            seen='{{seen}}',
            unseen='{{unseen}}',
            pixels='ignore',
        ),
        size='{{crop}}',
        long_side='{{long_side}}',
        scale='{{scale}}',
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset=dict(
        type=ZeroShotSplit,
        dataset=dict(type=VOCSegmentation, root='{{data_root}}', split='val'),
        seen='{{seen}}',
        unseen='{{unseen}}',
        pixels='keep',
    ),
)
val_cfg = dict()
val_evaluator = dict(type=MeanIoU)
test_dataloader, test_cfg, test_evaluator = val_dataloader, val_cfg, val_evaluator
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    constructor=ScratchFaster,
    precision='auto',
    optimizer=dict(type=AdamW, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05),
    paramwise_cfg=dict(scratch_lr=1.0),
)
