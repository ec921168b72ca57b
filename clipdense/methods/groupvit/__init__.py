"""GroupViT: segmentation that emerges from text alone.

Xu et al., GroupViT: Semantic Segmentation Emerges from Text Supervision, CVPR 2022 (arXiv 2202.11094).
Written from the paper and from facts about the released weights, without the released code.  Ours has more: a
choice of what counts as a false negative, thresholds by class or without labels, a learned background.
"""
