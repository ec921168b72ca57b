"""The teacher's embeddings of regions: preparing the crops, and the whole."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.model import CLIP, build_clip
from clipdense.data.transforms import CenterCrop
from clipdense.methods.vild.crops import crop_regions, grown
from clipdense.methods.vild.region_embeddings import embed_crops

from .harness import Found, Options, interleave, rate_rows

WIDTH, HEIGHT = 640, 480
FACTORS = (1.0, 1.5)


def region_embeddings(options: Options) -> Found:
    """Crops of the regions of an image, twice each, for CLIP, against a plain loop over PIL crops."""
    torch.manual_seed(0)
    clip = build_clip(options.model).eval().to(options.device)
    image, boxes = photograph(), proposals(options.batch)
    crop = CenterCrop.of(clip.preprocess)

    def ours() -> Tensor:
        crops = crop_regions(image, boxes, crop, FACTORS)
        return clip.preprocess.normalize(crops.flatten(0, 1).to(options.device))

    def peer() -> Tensor:
        return plain_crops(clip, image, boxes).to(options.device)

    def ours_whole() -> Tensor:
        return embed_crops(clip, crop_regions(image, boxes, crop, FACTORS))

    def peer_whole() -> Tensor:
        return plain_embeddings(clip, plain_crops(clip, image, boxes).to(options.device))

    cosine = float(F.cosine_similarity(ours_whole(), peer_whole().cpu(), dim=-1).min())
    if cosine < 0.9999:
        raise SystemExit(f'embeddings of ours and peer differ: cosine {cosine:.6f}, at least 0.9999')
    rows = [
        *rate_rows('crops', len(boxes), 'region', interleave(ours, peer, options), options.device),
        *rate_rows(
            'with CLIP', len(boxes), 'region', interleave(ours_whole, peer_whole, options), options.device
        ),
    ]
    return rows, {'least cosine': round(cosine, 6), 'image': f'{WIDTH} x {HEIGHT}', 'factors': FACTORS}


def plain_crops(clip: CLIP, image: Image.Image, boxes: np.ndarray) -> Tensor:
    """(2 R, 3, S, S): cut, scale, to tensor, normalize, one by one."""
    found = []
    for factor in FACTORS:
        for box in grown(boxes, factor, (HEIGHT, WIDTH)).tolist():
            found.append(clip.preprocess(image.crop(tuple(box))))
    return torch.stack(found)


@torch.no_grad()
def plain_embeddings(clip: CLIP, crops: Tensor) -> Tensor:
    """(2 R, 3, S, S) -> (R, D)."""
    summed = clip.encode_image(crops).unflatten(0, (len(FACTORS), -1)).sum(dim=0)
    return F.normalize(summed, dim=-1)


def photograph() -> Image.Image:
    """Soft and fine structure, as photographs have."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
    soft = np.asarray(soft.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), np.float32)
    fine = rng.normal(0, 12, (HEIGHT, WIDTH, 3))
    return Image.fromarray((soft + fine).clip(0, 255).astype(np.uint8))


def proposals(count: int) -> np.ndarray:
    """(R, 4) boxes of all sizes and shapes from 1 : 3 to 3 : 1."""
    rng = np.random.default_rng(1)
    area = np.exp(rng.uniform(np.log(24**2), np.log(400**2), count))
    ratio = np.exp(rng.uniform(-np.log(3), np.log(3), count))
    size = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=1).clip(2, [WIDTH, HEIGHT])
    corner = rng.random((count, 2)) * ([WIDTH, HEIGHT] - size)
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)
