"""Sliding windows: our way, windows together and classes in chunks, against one window after another."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.model import build_clip
from clipdense.methods.dense_clip.segmenter import DenseCLIP
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.windows import Slide
from clipdense.vocab.vocabulary import Vocabulary

from .harness import Found, Options, Row, interleave

SIZE, WINDOW, STRIDE, CLASSES = (336, 500), 224, 112, 150
NAME = 'ViT-B-16'


def dense_slide(options: Options) -> Found:
    """A 336 x 500 image in windows of 224, stride 112, 150 classes, ViT-B/16, against window by window."""
    torch.manual_seed(0)
    model = (
        DenseCLIP(build_clip(NAME), 'sclip', Slide(window=WINDOW, stride=STRIDE)).eval().to(options.device)
    )
    text = F.normalize(torch.randn(CLASSES, model.clip.embed_dim), dim=-1)
    names = Vocabulary(tuple(f'class {index}' for index in range(CLASSES)))
    model.set_vocabulary(names, ClassEmbeddings(text, torch.arange(CLASSES), CLASSES))
    image = torch.randn(3, *SIZE).to(options.device)

    masks = model.segment(image).classes, window_by_window(model, image)
    same = float((masks[0] == masks[1]).float().mean())
    if same < 0.9999:  # products of batches round otherwise than those of one window
        raise SystemExit(f'the masks differ at {1 - same:.2%} of the pixels')
    times = interleave(lambda: model.segment(image), lambda: window_by_window(model, image), options)
    rows = [Row('an image', median(times[0].wall), median(times[1].wall), 's')]
    if options.device == 'cpu':
        rows.append(Row('an image, CPU time', median(times[0].cpu), median(times[1].cpu), 'CPU-s'))
    return rows, {
        'model': NAME,
        'image': f'{SIZE[0]} x {SIZE[1]}, windows of {WINDOW}, stride {STRIDE}, {CLASSES} classes',
        'pixels with the same class': same,
    }


@torch.no_grad()
def window_by_window(model: DenseCLIP, image: Tensor) -> Tensor:
    """As mmsegmentation's ``slide_inference`` and the dense CLIP programs after it do: (3, H, W) -> (H, W).

    Each window goes through the tower alone, its logits of all classes are padded to the whole image and
    added; sums are divided by counts, and the softmax is taken over all classes at full size.
    """
    height, width = image.shape[-2:]
    total = image.new_zeros(1, CLASSES, height, width)
    count = image.new_zeros(1, 1, height, width)
    for top, left in places(height, width):
        bottom, right = top + WINDOW, left + WINDOW
        embeddings = model.encode_pixels(image[None, :, top:bottom, left:right])
        logits = torch.einsum('bdhw,kd->bkhw', embeddings, model.queries)
        logits = F.interpolate(logits, (WINDOW, WINDOW), mode='bilinear')
        total += F.pad(logits, (left, width - right, top, height - bottom))
        count[:, :, top:bottom, left:right] += 1
    logits = F.interpolate(total / count, (height, width), mode='bilinear')
    return (logits[0] * model.logit_scale).softmax(dim=0).argmax(dim=0)


def places(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Top and left of each window; the last of a row or column is moved inwards."""
    for row in range(max(height - WINDOW + STRIDE - 1, 0) // STRIDE + 1):
        for column in range(max(width - WINDOW + STRIDE - 1, 0) // STRIDE + 1):
            yield min(row * STRIDE, height - WINDOW), min(column * STRIDE, width - WINDOW)
