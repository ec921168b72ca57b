"""GroupViT: segmentation learned from text supervision only.

Xu et al., GroupViT: Semantic Segmentation Emerges from Text Supervision, CVPR 2022 (arXiv 2202.11094).
Implemented from the paper and the released weights.  In addition to the paper: equal texts of a batch can
count as matches, background thresholds by class or without labels, and a learned background.
"""
