"""GLIP-T (Swin-T) fine-tuned on COCO.

    clipdense train glip/glip_t_coco -o model.start=glip_tiny_model_o365_goldg_cc_sbu.pth

Without fusion, as GLIP-T (A): ``-o model.head.size.fused=False``, and ``model.start=glip_a_tiny_o365.pth``.

Cost: 24 epochs of COCO.
Score: AP as published with the weights, zero-shot / fine-tuned: A 42.9 / 52.9, B 44.9 / 53.8, C 46.7 / 55.1,
T 46.6 / 55.2.
Not run here: needs COCO, 8 GPUs and the released weights.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.glip_coco import *
