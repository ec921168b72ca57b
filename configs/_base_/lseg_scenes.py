"""How a dense head learns the masks of scenes' base combinations: images, optimizer, schedule."""

from torch.optim import AdamW

from clipdense.data.scenes import SceneSegmentation
from clipdense.data.segmentation.crops import SegmentationCrops
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.methods.lseg.training import ScratchFaster

train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    dataset=dict(
        type=SegmentationCrops,
        dataset=dict(
            type=SceneSegmentation,
            split='base',
            unlabeled=('novel',),
            num_images=40_000,
            difficulty='standard',
            stream='train',
        ),
        size=32,
        long_side=None,
        scale=(1.0, 1.0),
    ),
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    constructor=ScratchFaster,
    precision='auto',
    optimizer=dict(type=AdamW, lr=2e-4, betas=(0.9, 0.98), weight_decay=0.05),
    paramwise_cfg=dict(scratch_lr=10.0),
)
param_scheduler = dict(type=WarmupCosine, warmup=100)
