"""Which region is an instance of which token, across the images of a batch (GLIPv2).

R: regions of all images, B: images, T: tokens of a text.

Source: microsoft/GLIP modeling/rpn/loss.py, shallow contrastive loss of ``ATSSLossComputation``.
"""

from __future__ import annotations

import torch
from torch import Tensor

NO_CLASS = -1  # of a token
OF_CAPTION = -10  # class of a region of grounding data, which only its own text describes


def region_word_targets(image: Tensor, label: Tensor, own: Tensor, token_label: Tensor) -> Tensor:
    """1 where a region is an instance of a token -> (R, B * T).

    In the text of its own image a region belongs to the tokens of its phrase, in other texts to those of its
    class.

    Args:
        image: (R,) index of the image of a region.
        label: (R,) class of a region, or ``OF_CAPTION``.
        own: (R, T) tokens of its phrase in its own text.
        token_label: (B, T) class of a token, or ``NO_CLASS``.
    """
    targets = (label[:, None, None] == token_label).to(own)  # (R, B, T)
    rows = torch.arange(len(image), device=image.device)
    return targets.index_put((rows, image), own).flatten(1)
