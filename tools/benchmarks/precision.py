"""bf16 autocast against fp32: image tower and ``segment``, and how far the results agree."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.model import CLIP
from clipdense.inference.segmenter import Segmenter
from clipdense.layers.precision import autocast
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.options import SegmentationOptions
from clipdense.vocab.vocabulary import Vocabulary

from .clip_pair import check_equal, clip_pair
from .harness import Found, Options, Row, Times, interleave

NAME, SIDE = 'ViT-B-16', 224
METHODS = ('sclip', 'maskclip', 'naclip')  # the first is timed
CLASSES = ['left', 'right', 'top']
# Top, bottom, left and right of a part of each region, as fractions of the side.
PARTS = ((0.0, 1.0, 0.0, 0.2), (0.6, 1.0, 0.5, 1.0), (0.25, 0.4, 0.6, 0.8))


def precision(options: Options) -> Found:
    """fp32 and bf16, ours and open_clip's: ViT-B/16 image tower (224 pixels), ``segment``, and agreement."""
    ours, peer = (model.eval() for model in clip_pair(options, NAME))
    images = torch.randn(options.batch, 3, SIDE, SIDE).to(options.device)
    rows, notes = _image_tower(ours, peer, images, options)
    segmenters = {method: _segmenters(ours, method) for method in METHODS}
    picture = regions()
    fp32, bf16 = segmenters[METHODS[0]]
    times = interleave(lambda: bf16(picture, CLASSES), lambda: fp32(picture, CLASSES), options)
    rows += _rows(f'segment ({METHODS[0]}): bf16, fp32', times, options)
    for method, (exact, rounded) in segmenters.items():
        masks = exact(picture, CLASSES).mask, rounded(picture, CLASSES).mask
        notes[f'pixels with the same class, {method}'] = float((masks[0] == masks[1]).mean())
    return rows, notes


def regions() -> np.ndarray:
    """(224, 224, 3): three regions with noise."""
    image = np.zeros((SIDE, SIDE, 3))
    image[:] = 90
    image[:, : SIDE // 2] = 200, 40, 40
    image[SIDE // 2 :, SIDE // 4 :] = 20, 60, 220
    image[SIDE // 5 : SIDE // 2, SIDE // 2 : SIDE * 9 // 10] = 240, 230, 30
    return np.clip(image + np.random.default_rng(0).normal(0, 8, image.shape), 0, 255).astype(np.uint8)


class Rows:
    """Given class embeddings."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """One row for each class."""
        return ClassEmbeddings(self.rows, torch.arange(len(self.rows)), len(self.rows))


def _image_tower(ours: CLIP, peer: Any, images: Tensor, options: Options) -> tuple[list[Row], dict[str, Any]]:
    """Ours against open_clip's in both precisions, and ours in bf16 against ours in fp32."""
    rows, notes = [], {}

    def run(model: Any, dtype: torch.dtype | None) -> Callable[[], Tensor]:
        def call() -> Tensor:
            context: AbstractContextManager = autocast(options.device, dtype)
            with torch.no_grad(), context:
                return model.encode_image(images)

        return call

    exact = run(ours, None)()
    for name, dtype, tolerance in (('fp32', None, 1e-4), ('bf16', torch.bfloat16, 0.1)):
        sides = run(ours, dtype), run(peer, dtype)
        found = [side() for side in sides]
        check_equal(name, *found, tolerance)
        rows += _rows(f'image tower, {name}: ours, open_clip', interleave(*sides, options), options)
        if dtype is not None:
            cosines = [F.cosine_similarity(exact, one.float()).min() for one in found]
            notes['cosine to fp32, ours'], notes['cosine to fp32, open_clip'] = map(float, cosines)
    times = interleave(run(ours, torch.bfloat16), run(ours, None), options)
    return rows + _rows('image tower: bf16, fp32', times, options), notes


def _rows(label: str, times: tuple[Times, Times], options: Options) -> list[Row]:
    ours, peer = times
    rows = [Row(label, median(ours.wall), median(peer.wall), 's')]
    if options.device == 'cpu':
        rows.append(Row(f'{label}, CPU time', median(ours.cpu), median(peer.cpu), 'CPU-s'))
    return rows


def _segmenters(clip: CLIP, method: str) -> tuple[Segmenter, Segmenter]:
    """In fp32 and bf16; the class embeddings are those of the regions without what they have in common."""
    view = SegmentationOptions(short_side=SIDE, window=SIDE)
    model = DenseCLIP(clip, method)
    pixels = torch.from_numpy(regions()).permute(2, 0, 1).to(next(clip.parameters()).device)
    with torch.no_grad():
        model.configure(view)
        found = F.interpolate(model.encode_image(pixels).views[0].features[0], (SIDE, SIDE))[0]  # (D, H, W)
    corners = [[int(part * SIDE) for part in one] for one in PARTS]
    means = torch.stack([found[:, t:b, left:right].mean(dim=(1, 2)) for t, b, left, right in corners])
    embedder = Rows(F.normalize(means - means.mean(dim=0), dim=-1))
    exact, rounded = (Segmenter(model, embedder, view, precision=name) for name in ('fp32', 'bf16'))
    return exact, rounded
