"""MaskCLIP on any folder in PASCAL VOC format, with any CLIP weights.

    clipdense test dense_clip/maskclip_voc WEIGHTS -o test_dataloader.dataset.root=/data/VOC2012

Cost: no training; a 336 x 500 image is about a dozen windows of ViT-B/16.
Score: docs/benchmarks.md has what was measured.  Re-run by SCLIP's authors with OpenAI's ViT-B/16 under their
protocol: 43.4 mIoU on VOC21.
"""

from mmengine.config import read_base

from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.engine.hooks import VocabularyHook
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.dense_clip.segmenter import DenseCLIP

with read_base():
    from .._base_.default_runtime import *

model = dict(
    type=DenseCLIP,
    clip='ViT-B-16/openai',  # replaced by the WEIGHTS of the command line
    method='maskclip',
    logit_scale=40.0,
    background_threshold=0.0,
)
test_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(type=VOCSegmentation, root='data/VOC2012', split='val'),
)
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook, templates='imagenet'))
