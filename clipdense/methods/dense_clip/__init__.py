"""Training-free dense CLIP: what the last block's patches say when they are asked like the class token.

Zhou et al., Extract Free Dense Labels from CLIP (MaskCLIP), ECCV 2022 (arXiv 2112.01071).
"""
