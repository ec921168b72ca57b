"""A detector that was trained on LVIS, tested on VOC's 20 classes without further training.

    clipdense test vild/vild_transfer_voc07 WEIGHTS -o test_dataloader.dataset.root=/data/VOC2007

Any other set goes the same way; Objects365, for example, with ``vild_lvis`` itself and
``test_dataloader.dataset.annotations`` and ``.images`` of Objects365.

Cost: no training.
Score: the paper's ViLD with a ResNet-50 has AP50 72.2.
Not run here: needs weights of a ViLD that was trained on LVIS.
"""

from mmengine.config import read_base

from clipdense.data.detection.datasets import VOCDetection
from clipdense.data.detection.transforms import Resize
from clipdense.evaluation.detection.metric import DetectionAP

with read_base():
    from .._base_.default_runtime import *
    from .._base_.vild_mask_rcnn import *

test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(
        type=VOCDetection,
        root='data/VOC2007',
        split='test',
        transforms=[dict(type=Resize, scale=(1024, 1024), keep_ratio=True)],
    ),
)
test_cfg = dict()
test_evaluator = dict(type=DetectionAP, protocol='voc07')
