"""From decoder features to cosines with words, without ever making the embeddings where they are wider.

B: images, C: width of the decoder, (h, w): cells of the pixel map, D: joint space, K: classes.

The embedding of a pixel is e = W x + b, D numbers from the C of its feature x; with y = (x, 1) it is
e = V y.  A cosine needs t . e / |e| = (t V) y / |V y|, and |V y| = |R y| where R'R = V'V and R has C + 1
rows.  So y / |R y| can be kept in place of e / |e|: C + 1 numbers, from which any word's logit is a product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_JITTER = 1e-12  # of the mean diagonal: keeps a column of zeros from making the factor singular


class CosineHead(nn.Conv2d):
    """A 1 x 1 convolution to embeddings that are only ever compared by direction.

    Args:
        width: C.
        embed_dim: D.

    Attributes:
        compact: whether C + 1 numbers are kept in place of D.
    """

    def __init__(self, width: int, embed_dim: int) -> None:
        super().__init__(width, embed_dim, 1)
        self.compact = embed_dim >= 1.5 * (width + 1)

    def keep(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> what the logits of any words follow from: (B, C + 1, h, w) or (B, D, h, w)."""
        if not self.compact:
            return F.normalize(self(features), dim=1)
        extended = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)  # y
        norm = F.conv2d(extended, self._factor()[:, :, None, None]).float().norm(dim=1, keepdim=True)
        return extended / norm.clamp(min=1e-12).to(extended.dtype)

    def logits(self, kept: Tensor, text: Tensor) -> Tensor:
        """Kept features, (K, D) or (B, K, D) -> (B, K, h, w): the product with each word."""
        if self.compact:
            text = text @ self._extended()  # (K, C + 1)
        return torch.einsum('bdhw,bkd->bkhw' if text.ndim == 3 else 'bdhw,kd->bkhw', kept, text)

    def embeddings(self, kept: Tensor) -> Tensor:
        """Kept features -> unit embeddings (B, D, h, w)."""
        return F.conv2d(kept, self._extended()[:, :, None, None]) if self.compact else kept

    def _extended(self) -> Tensor:
        """V: (D, C + 1)."""
        assert self.bias is not None
        return torch.cat([self.weight[:, :, 0, 0], self.bias[:, None]], dim=1)

    def _factor(self) -> Tensor:
        """R: (C + 1, C + 1); worked out in double precision, which costs nothing at this size."""
        extended = self._extended().double()
        gram = extended.mT @ extended
        jitter = _JITTER * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        return torch.linalg.cholesky(gram + jitter, upper=True).to(self.weight.dtype)
