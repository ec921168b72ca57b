"""Training-free methods as graphs for export."""

from __future__ import annotations

from clipdense.clip.graphs import Graph, fixed_sizes
from clipdense.tasks.graphs import segmenter_graph

from .segmenter import DenseCLIP

_GRID = {
    'resclip': 'the second pass walks along the lines between patches',
    'proxyclip': 'the grid of the proxy backbone is traced',
}


def graph(model: DenseCLIP) -> Graph:
    """A CLIP with a training-free method."""
    reason = _GRID.get(model.method)
    fixed = fixed_sizes(model.clip.image) if reason is None else {'height': reason, 'width': reason}
    if model.method == 'resclip':
        fixed['batch'] = 'its operators have one batch size'
    return segmenter_graph(
        model,
        model.clip.embed_dim,
        model.clip.image.size.image_size,
        fixed=fixed,
        facts={'method': model.method},
    )
