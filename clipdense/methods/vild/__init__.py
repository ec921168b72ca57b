"""ViLD: open-vocabulary detection by vision and language knowledge distillation.

Gu et al., ICLR 2022 (arXiv 2104.13921); facts checked against tensorflow/tpu
``models/official/detection/projects/vild`` and dyabel/detpro.  The detector is mmdet's Mask R-CNN with our
RoI head.  Differences from the official code: novel classes are masked with minus infinity in training (TF
multiplies their logits by 0), the vocabulary can be changed at any time, and regions of which augmentation
crops away more than half are not distilled.
"""

from clipdense.mmcv_ops import install

install()  # before anything here imports mmdet
