"""GroupViT as a graph for export.

B: images, G: groups, (H, W): pixels, D: joint space, K: classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.graphs import Graph, logit_scale, unit_rows
from clipdense.clip.model import CLIP
from clipdense.tasks.graphs import segmenter_graph

from .grouping import patch_shares
from .segmenter import GroupVitSegmenter, group_scores


class GroupVitGraph(nn.Module):
    """(B, 3, H, W), (K, D) -> scores (B, K, H, W) in 0 .. 1: of the group that a pixel belongs to."""

    def __init__(self, model: GroupVitSegmenter) -> None:
        super().__init__()
        self.clip, self.top_classes = model.clip, model.top_classes
        self.scale = logit_scale(model.clip)

    def forward(self, images: Tensor, class_embeddings: Tensor) -> Tensor:
        text = unit_rows(class_embeddings)
        embedded = self.clip.encode_groups(images)
        to_image, to_groups = (
            self.scale * part.to(text.dtype) @ text.mT for part in (embedded.image, embedded.groups)
        )
        table = group_scores(to_image, to_groups, self.top_classes)  # (B, G, K)
        shares = patch_shares(embedded.assignments).unflatten(-1, embedded.grid)  # (B, G, h, w)
        size = (images.shape[-2], images.shape[-1])
        shares = F.interpolate(shares, size, mode='bilinear', align_corners=False)
        owner = shares.argmax(dim=1, keepdim=True)  # (B, 1, H, W)
        groups = torch.arange(shares.shape[1], device=shares.device)[:, None, None]
        chosen = (owner == groups).to(table.dtype).flatten(2)  # (B, G, H W)
        return (table.mT @ chosen).unflatten(2, size)


def graph(model: GroupVitSegmenter | CLIP) -> Graph:
    """A GroupViT without its text tower; the background rule stays outside."""
    segmenter = model if isinstance(model, GroupVitSegmenter) else GroupVitSegmenter(model)
    return segmenter_graph(
        segmenter,
        segmenter.clip.embed_dim,
        segmenter.clip.image.size.image_size,
        module=GroupVitGraph(segmenter),
        logits='(batch, classes, height, width), scores from 0 to 1; take the class with the highest score',
        facts={
            'method': 'groupvit',
            'scores': True,
            'left_outside': 'the background rule: groups whose best score is below a threshold',
        },
    )
