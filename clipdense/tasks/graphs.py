"""Segmenters as graphs for export.

B: images, (H, W): pixels, (h, w): cells of the logits, D: joint space, K: classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor, nn

from clipdense.clip.graphs import Graph, class_input, image_input, image_sizes, unit_rows

from .segmentation import SegmentationModel


class SegmenterGraph(nn.Module):
    """(B, 3, H, W), (K, D) -> logits (B, K, h, w) of one window.

    Args:
        model: a segmenter whose ``encode_pixels`` and ``classify_pixels`` work with sizes that are symbols.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, class_embeddings: Tensor) -> Tensor:
        features = self.model.encode_pixels(images)
        logits = self.model.classify_pixels(features, unit_rows(class_embeddings))
        return logits * self.model.logit_scale


def segmenter_graph(
    model: SegmentationModel,
    embed_dim: int,
    image_size: int,
    *,
    module: nn.Module | None = None,
    logits: str = '(batch, classes, h, w), to be resized to the pixels (bilinear), softmax over the classes',
    multiple: int = 1,
    fixed: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Graph:
    """A segmenter without its windows, its resizing and its background rule, which stay outside.

    Args:
        model: the segmenter.
        embed_dim: D.
        image_size: side of the images to trace with, in pixels; a multiple of the patch size.
        module: images and class embeddings -> logits; ``SegmenterGraph`` by default.
        logits: what the output is.
        multiple: of which the sides of images must be multiples.
        fixed: see ``Graph``.
        facts: further facts.
    """
    normalization = model.data_preprocessor
    rules = {
        'windows': asdict(model.slide),
        'background_threshold': model.background_threshold,
        'logit_scale': float(model.logit_scale),
        'left_outside': 'resizing, windows, and the background rule',
    }
    image = image_input(max(model.patch_size, multiple))
    sizes = image_sizes(image_size, max(model.patch_size, multiple))
    if fixed and 'width' in fixed:
        sizes['width'] = image_size  # a window
    return Graph(
        part='segmenter',
        module=module or SegmenterGraph(model),
        inputs={**image['inputs'], 'class_embeddings': class_input(embed_dim)},
        outputs={'logits': logits},
        sizes=sizes,
        smallest=image['smallest'],
        multiples={'height': multiple, 'width': multiple} if multiple > 1 else {},
        fixed=fixed or {},
        facts={**normalization_facts(normalization), **rules, 'embed_dim': embed_dim, **(facts or {})},
        source=model,
    )


def normalization_facts(preprocessor: Any) -> dict[str, Any]:
    """Mean and standard deviation of an ``ImagePreprocessor``, on the 0 .. 1 scale."""
    mean, std = (values.flatten().tolist() for values in (preprocessor.mean, preprocessor.std))
    return {'preprocess': {'mean': mean, 'std': std, 'interpolation': 'bilinear'}}
