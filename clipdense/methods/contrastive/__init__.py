"""Contrastive pre-training from image-text pairs.

CLIP (Radford et al., arXiv 2103.00020) with a softmax over the batch, SigLIP (Zhai et al., arXiv
2303.15343) with a sigmoid for each pair.  Gradient accumulation differs from both releases: the loss
is computed once over the full batch, so every parameter, including logit_scale, gets the gradient of the full
batch.
"""
