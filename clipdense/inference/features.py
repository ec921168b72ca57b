"""Embeddings of the pixels of an image, as a user gets them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, repr=False, eq=False)
class DenseFeatures:
    """Unit embeddings of the pixels or cells of an image.

    Args:
        embeddings: (D, h, w) fp32, on the device of the model; (D, H, W) if they are pixel-aligned.
        size: (H, W) of the image as displayed, in pixels.
    """

    embeddings: Tensor
    size: tuple[int, int]

    def __repr__(self) -> str:
        """``DenseFeatures(512 x 21 x 28, stride 22.9 x 22.9)``: D, h, w; rows before columns."""
        dim, height, width = self.embeddings.shape
        down, right = self.stride
        return f'DenseFeatures({dim} x {height} x {width}, stride {down:.4g} x {right:.4g})'

    @property
    def stride(self) -> tuple[float, float]:
        """Pixels of the image between neighbors in a column, and in a row; (1, 1) if pixel-aligned."""
        height, width = self.embeddings.shape[1:]
        return self.size[0] / height, self.size[1] / width
