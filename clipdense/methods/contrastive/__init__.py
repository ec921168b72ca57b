"""Contrastive pre-training from image-text pairs.

CLIP (Radford et al., arXiv 2103.00020) with a softmax over the batch, SigLIP (Zhai et al., arXiv
2303.15343) with a sigmoid for each pair.  Ours differs from both releases in how gradients are accumulated:
the loss sees the whole batch once, so every parameter, logit_scale included, gets the gradient of the full
batch.
"""
