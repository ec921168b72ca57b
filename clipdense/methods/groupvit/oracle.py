"""Quality of the masks independent of their classes: each group takes its best class by the labels.

G: groups, K: classes, (H, W): pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def oracle_labels(
    owner: Tensor, labels: Tensor, num_groups: int, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """The class of each pixel, (H, W), if each group takes the class with the highest IoU.

    Args:
        owner: (H, W) group of each pixel.
        labels: (H, W) true classes; pixels of ``ignore_index`` are ignored.
        num_groups: G.
        num_classes: K.
        ignore_index: see above.

    Source: GroupViT (arXiv 2202.11094), section 4.4, "oracle".
    """
    counted = labels != ignore_index
    cells = owner[counted].long() * num_classes + labels[counted]
    shared = torch.bincount(cells, minlength=num_groups * num_classes).view(num_groups, num_classes)
    union = shared.sum(1, keepdim=True) + shared.sum(0, keepdim=True) - shared  # (G, K)
    return (shared / union.clamp(min=1)).argmax(dim=1)[owner.long()]
