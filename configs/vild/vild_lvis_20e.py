r"""ViLD with a ResNet-50 on LVIS v1 in 20 epochs, the schedule of DetPro's comparison.

    clipdense train vild/vild_lvis_20e --work-dir work_dirs/rpn \
        -o model.roi_head.bbox_head.variant=text -o train_dataloader.dataset.regions=none
    clipdense embed regions vild/vild_lvis_20e work_dirs/rpn/step_N.pth data/lvis/regions
    torchrun --nproc-per-node 8 tools/train.py vild/vild_lvis_20e

DetPro starts from SoCo weights, which ``model.backbone.init_cfg`` can name, and repeats images of infrequent
classes; neither is done here.
Cost: 20 epochs of LVIS.
Score: DetPro reports mask APr / APc / APf / AP of 16.8 / 25.6 / 28.5 / 25.2 for this schedule.
Not run here: needs LVIS and 8 GPUs.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vild_20e import *
    from .._base_.vild_lvis import *
    from .._base_.vild_mask_rcnn import *

train_dataloader.update(batch_size=2)
train_dataloader['dataset'].update(transforms=train_transforms)
proposal_dataset = dict(**train_set, transforms=test_transforms)
test_dataloader['dataset'].update(transforms=test_transforms)
