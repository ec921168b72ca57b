"""MaskCLIP+ with DeepLabv3 on a folder in PASCAL VOC format, without its labels.

    clipdense train dense_clip/maskclip_plus_voc
    clipdense test dense_clip/maskclip_plus_voc work_dirs/maskclip_plus_voc/step_40000.pth

The images of the folder and its class names are all that it needs: VOC 2012, PASCAL Context in this
format, or your own.  The paper starts from ImageNet's weights, which torchvision downloads
with ``-o model.student.weights_backbone=IMAGENET1K_V1``.
Cost: 40,000 steps of 16 crops of 512 pixels.
Score: the paper, with DeepLabv2-R101 and no annotations, has 31.1 mIoU on PASCAL Context and 18.0 on
COCO-Stuff.
Not run here: needs the weights of a published CLIP and GPUs.
"""

from mmengine.config import read_base
from torch.optim import SGD
from torchvision.models.segmentation import deeplabv3_resnet101

from clipdense.data.segmentation.crops import SegmentationCrops
from clipdense.data.segmentation.datasets import VOCSegmentation
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.dense_clip.maskclip_plus import MaskCLIPPlus
from clipdense.methods.dense_clip.segmenter import DenseCLIP

with read_base():
    from .._base_.default_runtime import *

data_root = 'data/VOC2012'
default_hooks.update(export=None)  # the CLIP is its teacher's
model = dict(
    type=MaskCLIPPlus,
    teacher=dict(type=DenseCLIP, clip='ViT-B-16/openai', method='maskclip_denoised', logit_scale=40.0),
    student=dict(type=deeplabv3_resnet101, num_classes=512, weights_backbone=None),
    guided_steps=4000,
)
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    dataset=dict(
        type=SegmentationCrops,
        dataset=dict(type=VOCSegmentation, root=data_root, split='train'),
        size=512,
        long_side=512,
        scale=(0.5, 2.0),
    ),
)
train_cfg = dict(max_steps=40_000)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=SGD, lr=0.01, momentum=0.9, weight_decay=5e-4),
)
param_scheduler = dict(type=WarmupCosine, warmup=500)
test_dataloader = dict(
    batch_size=1, num_workers=1, dataset=dict(type=VOCSegmentation, root=data_root, split='val')
)
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook, templates='imagenet'))
