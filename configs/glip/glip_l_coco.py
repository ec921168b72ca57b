"""GLIP-L (Swin-L) fine-tuned on COCO.

    clipdense train glip/glip_l_coco -o model.start=glip_large_model.pth

Cost: 24 epochs of COCO.
Score: AP as published with the weights: 51.4 zero-shot, 61.7 fine-tuned and tested in several scales.
Not run here: needs COCO, 8 GPUs and the released weights.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.default_runtime import *
    from .._base_.glip_coco import *

model.merge(
    dict(
        backbone=dict(
            embed_dims=192,
            depths=[2, 2, 18, 2],
            num_heads=[6, 12, 24, 48],
            window_size=12,
            drop_path_rate=0.4,
        ),
        neck=dict(in_channels=[384, 768, 1536]),
        head=dict(size=dict(depth=8)),
    )
)
