"""CLIP-Adapter: a residual bottleneck on embeddings.  ...: any leading dimensions, D: joint space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS
from clipdense.tasks.adapters import Adapter, Origin
from clipdense.utils.errors import InputError

from .writing import write_adapter


class ResidualAdapter(nn.Module):
    """``ratio * A(x) + (1 - ratio) * x`` with A(x) = ReLU(W2 ReLU(W1 x)), for embeddings (..., D).

    A is homogeneous, A(c x) = c A(x) for c > 0: after normalization the result for a unit embedding equals
    that for the embedding as the tower returns it, which the paper adapts.

    Args:
        embed_dim: D.
        reduction: D over the width of the bottleneck.
        ratio: weight of the adapted embedding, 0 to 1.
        final_relu: the second ReLU, as in the released code; without it the adapter can also lower values.

    Raises:
        InputError: a ratio out of range, or a reduction that leaves no bottleneck.

    Source: Gao et al., CLIP-Adapter (arXiv 2110.04544), equations 4 to 6.
    """

    def __init__(
        self, embed_dim: int, reduction: int = 4, ratio: float = 0.2, final_relu: bool = True
    ) -> None:
        super().__init__()
        if not isinstance(ratio, int | float) or isinstance(ratio, bool) or not 0 <= ratio <= 1:
            raise InputError(f'ratio must be a number between 0 and 1, got {ratio!r}')
        if not isinstance(reduction, int) or not 1 <= reduction <= embed_dim:
            raise InputError(
                f'reduction must be a whole number from 1 to the dimension {embed_dim}, got {reduction!r}'
            )
        width = embed_dim // reduction
        last = [nn.ReLU()] if final_relu else []
        self.fc = nn.Sequential(
            nn.Linear(embed_dim, width, bias=False), nn.ReLU(), nn.Linear(width, embed_dim, bias=False), *last
        )
        self.ratio, self.final_relu = float(ratio), final_relu

    def forward(self, embeddings: Tensor) -> Tensor:
        """(..., D) -> (..., D), not normalized."""
        dtype = next(self.parameters()).dtype
        adapted = self.fc(embeddings.to(dtype)).to(embeddings.dtype)
        return self.ratio * adapted + (1 - self.ratio) * embeddings


@MODELS.register_module()
class ClipAdapter(Adapter):
    """CLIP-Adapter on the image side, the text side, or both.

    Args:
        embed_dim: D.
        sides: 'image', 'text' or 'both'.
        reduction, ratio, final_relu: see ``ResidualAdapter``.
        origin: see ``Adapter``.

    Raises:
        InputError: an unknown side, or as ``ResidualAdapter``.
    """

    def __init__(
        self,
        embed_dim: int,
        sides: str = 'image',
        reduction: int = 4,
        ratio: float = 0.2,
        final_relu: bool = True,
        origin: Origin | None = None,
    ) -> None:
        super().__init__(embed_dim, origin)
        if sides not in ('image', 'text', 'both'):
            raise InputError(f"sides must be 'image', 'text' or 'both', got {sides!r}")
        self.sides, self.reduction = sides, reduction
        self.image, self.text = (
            ResidualAdapter(embed_dim, reduction, ratio, final_relu) if sides in (side, 'both') else None
            for side in ('image', 'text')
        )

    def summary(self) -> str:
        """What it adapts."""
        part: Any = self.image or self.text
        sides = 'image and text embeddings' if self.sides == 'both' else f'{self.sides} embeddings'
        return f'CLIP-Adapter of {sides}, ratio {part.ratio:g}, from {self.origin.kind}'

    def save(self, path: str | Path) -> None:
        """Write a self-describing file, see ``Adapter.save``."""
        write_adapter(path, self.state_dict(), self.origin, self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that it was built with, without ``origin``."""
        part: Any = self.image or self.text
        own = {name: getattr(self, name) for name in ('embed_dim', 'sides', 'reduction')}
        return {**own, 'ratio': part.ratio, 'final_relu': part.final_relu}

    def adapt_embeddings(self, embeddings: Tensor) -> Tensor:
        """(..., D) -> unit (..., D)."""
        return embeddings if self.image is None else F.normalize(self.image(embeddings), dim=-1)

    def adapt_queries(self, queries: Tensor) -> Tensor:
        """(Q, D) -> unit (Q, D)."""
        return queries if self.text is None else F.normalize(self.text(queries), dim=-1)
