"""ViLD: open-vocabulary detection by vision and language knowledge distillation.

Gu et al., ICLR 2022 (arXiv 2104.13921); facts checked against tensorflow/tpu
``models/official/detection/projects/vild`` and dyabel/detpro.  The detector is mmdet's Mask R-CNN with our
RoI head.  Ours differs in that novel classes are masked with minus infinity in training (TF multiplies their
logits by 0), that words may be exchanged at any time, and that regions mostly cropped away by augmentation
are not distilled.
"""

from clipdense.mmcv_ops import install

install()  # before anything here imports mmdet
