"""SLIP: contrastive learning from captions and self-supervised learning from views, on one image tower.

Mu et al., arXiv 2112.12750; facebookresearch/SLIP.  The self-supervised part is a ``Partner``: SimCLR as
released, or BYOL, MoCo v3, DINO, or masked image modeling, each in its own file.  Different from the release:
in several processes the loss of the captions has the exact gradient of the joined batch, as in
``contrastive`` (the release stops gradients at its gather), and accumulation keeps all pairs of the batch as
negatives, with batch norm over the whole batch.
"""
