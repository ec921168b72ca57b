r"""ViLD with a ResNet-50 on OV-COCO: 48 base classes, tested on all 65 (AP50 of boxes).

    clipdense train vild/vild_coco --work-dir work_dirs/rpn \
        -o model.roi_head.bbox_head.variant=text -o train_dataloader.dataset.regions=none
    clipdense embed regions vild/vild_coco work_dirs/rpn/step_N.pth data/coco/regions
    torchrun --nproc-per-node 8 tools/train.py vild/vild_coco

Images that show none of them are left out, as in the published protocol: 107,761 train, 4,836 test.  The
schedule is that of 20 epochs; the paper trains on COCO for longer.
Cost: 20 epochs of COCO.
Score: the paper's AP50 novel / base / all is 27.6 / 59.5 / 51.3.
Not run here: needs COCO and 8 GPUs.
"""

from mmengine.config import read_base

from clipdense.data.detection.datasets import CocoDetection
from clipdense.evaluation.detection.metric import DetectionAP

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vild_20e import *
    from .._base_.vild_mask_rcnn import *

for part in ('mask_head', 'mask_roi_extractor'):
    model.roi_head.pop(part)
data_root = 'data/coco'
train_set = dict(
    type=CocoDetection,
    annotations=f'{data_root}/annotations/instances_train2017.json',
    images=f'{data_root}/train2017',
    classes='ov_coco/base',  # 48
)
train_dataloader = dict(
    batch_size=2,
    num_workers=8,
    dataset=dict(**train_set, training=True, regions=f'{data_root}/regions', transforms=train_transforms),
)
proposal_dataset = dict(**train_set, transforms=test_transforms)
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(
        type=CocoDetection,
        annotations=f'{data_root}/annotations/instances_val2017.json',
        images=f'{data_root}/val2017',
        classes='ov_coco',  # 65, of which 17 are novel
        transforms=test_transforms,
    ),
)
test_cfg = dict()
test_evaluator = dict(type=DetectionAP, kinds=('bbox',))
