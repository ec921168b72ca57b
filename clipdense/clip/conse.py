"""ConSE: join a classifier and a text encoder without training.

K: texts, N: classes of the classifier, D: joint space.

Source: Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings (arXiv 1312.5650).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32, no_autocast


class ConvexCombination(nn.Module):
    """The mean of the text embeddings of the classes, weighted by their probabilities.

    Args:
        num_classes: N.
        embed_dim: D.

    Attributes:
        embeddings: (N, D) of the class names; not trained.

    Source: equation 3 of the paper, with all classes in the sum.
    """

    embeddings: Tensor

    def __init__(self, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer('embeddings', torch.empty(num_classes, embed_dim))
        nn.init.normal_(self.embeddings, std=embed_dim**-0.5)

    def forward(self, logits: Tensor) -> Tensor:
        """Class logits (..., N) -> (..., D); autocast does not reach in."""
        with no_autocast(logits.device):
            probabilities = at_least_fp32(logits).softmax(dim=-1)
            return probabilities.to(self.embeddings.dtype) @ self.embeddings


class Centered(nn.Module):
    """Unit embeddings with a mean embedding subtracted.

    Embeddings of a sentence encoder share a large mean; without it, cosines tell classes apart better.

    Args:
        embed_dim: D.

    Attributes:
        mean: (D,), over the class names of the classifier; not trained.
    """

    mean: Tensor

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.register_buffer('mean', torch.zeros(embed_dim))

    def forward(self, embeddings: Tensor) -> Tensor:
        """(K, D) -> (K, D), not normalized."""
        return F.normalize(embeddings, dim=-1) - self.mean
