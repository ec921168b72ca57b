"""Pixel embeddings of a ConvNeXt: ours against open_clip's trunk with its head at each location."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .clip_pair import check_equal, clip_pair
from .harness import Found, Options, interleave, rate_rows

NAME = 'convnext_base_w'
SIZE = (256, 320)


def convnext_dense(options: Options) -> Found:
    """``encode_dense`` of a ConvNeXt, one 256 x 320 image, against open_clip's trunk and head."""
    ours, peer = (model.eval() for model in clip_pair(options, NAME))
    image = torch.randn(1, 3, *SIZE).to(options.device)
    with torch.no_grad():
        difference = check_equal('embeddings', ours.encode_dense(image), at_each_location(peer, image), 1e-5)
        times = interleave(lambda: ours.encode_dense(image), lambda: at_each_location(peer, image), options)
    return rate_rows('an image', 1, 'img', times, options.device), {
        'model': NAME,
        'image': f'{SIZE[0]} x {SIZE[1]}',
        'largest difference': difference,
    }


def at_each_location(clip: Any, images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, D, h, w): as FC-CLIP uses open_clip's ConvNeXt."""
    features = clip.visual.trunk.forward_features(images)  # (B, C, h, w)
    batch, width, height, length = features.shape
    cells = features.permute(0, 2, 3, 1).reshape(-1, width, 1, 1)
    embeddings = clip.visual.head(clip.visual.trunk.head(cells))  # (B h w, D)
    return embeddings.reshape(batch, height, length, -1).permute(0, 3, 1, 2)
