"""LSeg on ADE20K in a sixth of the steps: AdamW, a cosine per step, bf16, words embedded once.

    torchrun --nproc_per_node 8 tools/train.py configs/lseg/lseg_vit_l_16_ade20k_fast.py

Cost: not measured here (it needs GPUs and ADE20K); 40 epochs instead of 240.
Score: not measured here.  What the two recipes do on scenes in equal steps is in docs/learning_lseg.md.
"""

from mmengine.config import read_base
from torch.optim import AdamW

from clipdense.data.benchmark_training import BenchmarkTraining
from clipdense.data.benchmarks import BenchmarkSegmentation
from clipdense.data.segmentation_crops import SegmentationCrops
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.mean_iou import MeanIoU
from clipdense.methods.lseg.backbones import TransformerPyramid, timm_network
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.methods.lseg.training import ScratchFaster

with read_base():
    from .._base_.default_runtime import *

data_root = 'data/ADEChallengeData2016'

model = dict(
    type=LSeg,
    backbone=dict(
        type=TransformerPyramid,
        vit=dict(type=timm_network, name='vit_large_patch16_384.augreg_in21k_ft_in1k', pretrained=True),
        channels=(256, 512, 1024, 1024),
    ),
    clip='ViT-B-32/openai',
    slide=dict(short_side=520, long_side=520, window=480, stride=320),
)
train_dataloader = dict(
    batch_size=4,
    num_workers=8,
    dataset=dict(
        type=SegmentationCrops,
        dataset=dict(type=BenchmarkTraining, benchmark='ade20k', root=data_root),
        size=480,
        long_side=520,
        scale=(0.5, 2.0),
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(type=BenchmarkSegmentation, benchmark='ade20k', root=data_root),
)
train_cfg = dict(max_epochs=40)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    constructor=ScratchFaster,
    precision='bf16',
    clip_grad=dict(max_norm=1.0),
    optimizer=dict(type=AdamW, lr=2e-5, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(scratch_lr=10.0),
)
param_scheduler = [dict(type=WarmupCosine, warmup=500)]
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = [dict(type=VocabularyHook, templates='name')]
