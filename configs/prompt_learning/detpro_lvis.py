"""DetPro on LVIS: contexts of class names learned from proposed regions, for ViLD.

    clipdense embed regions vild/vild_lvis RPN.pth data/lvis/regions
    clipdense embed region-features data/lvis/regions data/lvis/annotations/lvis_v1_train.json \\
        -c base --out data/lvis/region_features.safetensors
    clipdense train prompt_learning/detpro_lvis --work-dir work_dirs/iou5
    clipdense train prompt_learning/detpro_lvis --work-dir work_dirs/iou6 \\
        -o 'train_dataloader.dataset.iou=(0.6, 0.7)'

and so on for (0.7, 0.8), (0.8, 0.9) and (0.9, 1.1); then their sum, as class embeddings of ViLD:

    clipdense embed detpro work_dirs/iou*/prompts.safetensors --vocab lvis_v1_val.json --out e.safetensors

Cost: 6 epochs of the regions of 866 base classes for each range of IoU.
Score: published (README of dyabel/detpro; Mask R-CNN R50, 20 epochs): box AP of rare classes 20.8 and of all
28.4, against 17.4 and 27.5 with templates; masks 19.8 and 25.9, against 16.8 and 25.2.
Not run here: needs LVIS, an RPN trained on it and a GPU.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR
from torch.optim import SGD

from clipdense.data.detection.region_features import LabeledRegions
from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.methods.prompt_learning.detpro import DetPro, RegionsHook
from clipdense.methods.prompt_learning.learner import CoOp

with read_base():
    from .._base_.default_runtime import *

model = dict(
    type=DetPro, clip='ViT-B-32/openai', learner=dict(type=CoOp, n_ctx=8), mode='soft', temperature=0.01
)
train_dataloader = dict(
    batch_size=512,
    num_workers=4,
    dataset=dict(
        type=LabeledRegions,
        file='data/lvis/region_features.safetensors',
        iou=(0.5, 0.6),
        background=(0.1, 0.5),
        background_fraction=0.1,
    ),
)
optim_wrapper = dict(type=PrecisionOptimWrapper, precision='auto', optimizer=dict(type=SGD, lr=2e-3))
param_scheduler = dict(type=CosineAnnealingLR, by_epoch=True, T_max=6)
train_cfg = dict(max_epochs=6)
custom_hooks = dict(regions=dict(type=RegionsHook))
