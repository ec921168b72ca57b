"""Cosines of decoder features with class embeddings, without computing wide pixel embeddings.

B: images, C: width of the decoder, (h, w): cells of the pixel map, D: joint space, K: classes.

The embedding of a pixel is e = W x + b, with D values, for a feature x with C values; with y = (x, 1) it is
e = V y.  A cosine is t . e / |e| = (t V) y / |V y|, and |V y| = |R y| where R'R = V'V and R has C + 1 rows.
So y / |R y|, with C + 1 values, can be stored instead of e / |e|, and logits are its products with t V.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.exporting import exporting
from clipdense.layers.precision import no_autocast

_JITTER = 1e-12  # relative to the mean of the diagonal: avoids a singular matrix


class CosineHead(nn.Conv2d):
    """A 1 x 1 convolution to embeddings that are compared by cosine.

    Args:
        width: C.
        embed_dim: D.

    Attributes:
        compact: whether C + 1 values are stored instead of D.
    """

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__(width, embed_dim, 1)
        self.compact = embed_dim >= 1.5 * (width + 1)

    def keep(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> features to compute logits from: (B, C + 1, h, w) or (B, D, h, w).

        Autocast does not reach in: the temperature would amplify its rounding errors.
        """
        with no_autocast(features.device):
            features = features.to(self.weight.dtype)
            if not self.compact or exporting():  # the factorization is no operator of ONNX
                return F.normalize(self(features), dim=1)
            extended = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)  # y
            norm = F.conv2d(extended, self._factor()[:, :, None, None]).float().norm(dim=1, keepdim=True)
            return extended / norm.clamp(min=1e-12).to(extended.dtype)

    def logits(self, kept: Tensor, text: Tensor) -> Tensor:
        """Stored features, (K, D) or (B, K, D) -> (B, K, h, w): the product with each class embedding."""
        if self._is_compact(kept):
            text = text @ self._extended().to(text.dtype)  # (K, C + 1)
        return torch.einsum('bdhw,bkd->bkhw' if text.ndim == 3 else 'bdhw,kd->bkhw', kept, text)

    def embeddings(self, kept: Tensor) -> Tensor:
        """Stored features -> unit embeddings (B, D, h, w)."""
        if not self._is_compact(kept):
            return kept
        return F.conv2d(kept, self._extended()[:, :, None, None].to(kept.dtype))

    def _is_compact(self, kept: Tensor) -> bool:
        """Whether features have C + 1 values; embeddings, which may be stored instead, have D."""
        return self.compact and kept.shape[1] == self.in_channels + 1

    def _extended(self) -> Tensor:
        """V: (D, C + 1)."""
        assert self.bias is not None
        return torch.cat([self.weight[:, :, 0, 0], self.bias[:, None]], dim=1)

    def _factor(self) -> Tensor:
        """R: (C + 1, C + 1), computed in double precision."""
        extended = self._extended().double()
        gram = extended.mT @ extended
        jitter = _JITTER * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return torch.linalg.cholesky(gram + jitter, upper=True).to(self.weight.dtype)
