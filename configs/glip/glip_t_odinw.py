"""GLIP-T tuned on a data set of ODinW, or any COCO export of Roboflow: full, linear probing, prompt tuning.

    clipdense test glip_tiny_model_o365_goldg_cc_sbu.pth --data data/odinw    # zero-shot: AP of each, average
    clipdense train glip/glip_t_odinw -o data_root=data/odinw/BCCD/BCCD.v3-raw.coco \
        -o model.start=glip_tiny_model_o365_goldg_cc_sbu.pth
    clipdense test glip/glip_t_odinw work_dirs/glip_t_odinw/best.pth -o data_root=...

Prompt tuning: ``-o model.tune=prompt -o optim_wrapper.optimizer.lr=0.05
-o optim_wrapper.optimizer.weight_decay=0.25``.  Linear probing: ``-o model.tune=linear``.  Few-shot:
``-o shots=3 -o copies=4`` with ``draw`` 3, 30 and 300 (1, 3, 5 and 10 shots have 8, 4, 2 and 1 copies).
All images: patience 2 and 4 in place of 3 and 8.

The schedule is the published one: a rate of 1e-4 (text tower 1e-5) that falls to a tenth where AP of the
validation images has not risen for 3 epochs; the training ends after 8 such epochs, or 200 in all.

Cost: up to 200 epochs of a data set.
Score: published mean AP on the test images of 13 data sets, all images: full 64.9 (GLIP-T), 68.9 (GLIP-L);
zero-shot 46.5 and 52.1.
Not run here: needs ODinW, GPUs and the released weights.
"""

from mmengine.config import read_base
from mmengine.optim import ReduceOnPlateauLR

from clipdense.data.detection.few_shot import FewShotDetection
from clipdense.data.detection.roboflow import RoboflowDetection
from clipdense.engine.early_stopping import EarlyStopping
from clipdense.methods.glip.tuning import TunedGLIP

with read_base():
    from .._base_.default_runtime import *
    from .._base_.glip_coco import *

data_root = 'data/odinw/BCCD/BCCD.v3-raw.coco'
shots, draw, copies = None, 3, 1  # None: all images

model.merge(dict(type=TunedGLIP, tune='full', prompts=dict(max_names=None)))
optim_wrapper.merge(
    dict(
        optimizer=dict(lr=1e-4, weight_decay=0.05),
        paramwise_cfg=dict(lr_factors=dict(clip=0.1)),
    )
)
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    dataset=dict(
        type=FewShotDetection,
        shots='{{shots}}',
        draw='{{draw}}',
        copies='{{copies}}',
        dataset=dict(
            type=RoboflowDetection,
            root='{{data_root}}',
            split='train',
            training=True,
            transforms=[
                dict(type=Resize, scale=(1333, 800), keep_ratio=True),
                dict(type=RandomFlip, prob=0.5),
            ],
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(type=RoboflowDetection, root='{{data_root}}', split='val', transforms=test_transforms),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(type=RoboflowDetection, root='{{data_root}}', split='test', transforms=test_transforms),
)
val_cfg = dict()
val_evaluator = dict(type=DetectionAP)
param_scheduler = dict(type=ReduceOnPlateauLR, monitor='all/AP', rule='greater', factor=0.1, patience=3)
custom_hooks.merge(dict(stop=dict(type=EarlyStopping, monitor='all/AP', rule='greater', patience=8)))
default_hooks.checkpoint.merge(dict(interval=None, save_best='all/AP'))
train_cfg = dict(max_epochs=200)
