"""LSeg as a graph for export.  B: images, (H, W): pixels, D: joint space, K: classes."""

from __future__ import annotations

from torch import Tensor, nn

from clipdense.clip.graphs import Graph, unit_rows
from clipdense.tasks.graphs import segmenter_graph

from .segmenter import LSeg


class LSegGraph(nn.Module):
    """(B, 3, H, W), (K, D) -> logits (B, K, H, W), for multiples of the stride."""

    def __init__(self, model: LSeg) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, class_embeddings: Tensor) -> Tensor:
        model = self.model
        maps = model.backbone(images)
        kept = model.project.keep(model.decoder(maps))
        logits = model.cell_logits(kept, unit_rows(class_embeddings))
        return model.fit_scores(logits, (images.shape[-2], images.shape[-1])) * model.logit_scale


def graph(model: LSeg) -> Graph:
    """An LSeg without its text tower."""
    return segmenter_graph(
        model,
        model.project.out_channels,
        2 * model.backbone.stride,
        multiple=model.backbone.stride,
        module=LSegGraph(model),
        logits='(batch, classes, height, width), one for each pixel, softmax over the classes',
        facts={'method': 'lseg'},
    )
