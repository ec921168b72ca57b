"""SimCLR as the partner of CLIP: the head and the loss of the release.

B: images of this process, P: processes, E: output of the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.dense import feature_width
from clipdense.clip.model import CLIP
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS
from clipdense.utils.dist import gather_with_grad, rank
from clipdense.utils.errors import CheckpointError
from clipdense.weights.io import read_weights

from .heads import mlp_head
from .partner import Partner, check_positive

_OFFICIAL = 'image_mlp.'  # of SLIP's checkpoints


def simclr_loss(first: Tensor, second: Tensor, temperature: float = 0.1) -> tuple[Tensor, Tensor]:
    """Normalized, temperature-scaled cross entropy of two views over the global batch.

    A view must find the other view of its image among both views of all other images.  Gradients flow through
    the gather; the mean over processes is the loss of the global batch.

    Args:
        first, second: (B, E), not normalized.
        temperature: divisor of the cosines.

    Returns:
        The loss, and the fraction of the first views whose nearest one is the other view of their image.

    Source: Chen et al., arXiv 2002.05709; facebookresearch/SLIP ``losses.py`` SIMCLRLoss.
    """
    a, b = (F.normalize(at_least_fp32(x), dim=-1) for x in (first, second))
    all_a, all_b = gather_with_grad(a), gather_with_grad(b)  # (P * B, E)
    right = torch.arange(len(a), device=a.device) + rank() * len(a)
    itself = F.one_hot(right, len(all_a)).bool()  # (B, P * B)
    a_to_a = (a @ all_a.mT / temperature).masked_fill(itself, -torch.inf)
    b_to_b = (b @ all_b.mT / temperature).masked_fill(itself, -torch.inf)
    of_a = torch.cat([a @ all_b.mT / temperature, a_to_a], dim=1)  # (B, 2 * P * B)
    of_b = torch.cat([b @ all_a.mT / temperature, b_to_b], dim=1)
    loss = (F.cross_entropy(of_a, right) + F.cross_entropy(of_b, right)) / 2
    return loss, (of_a.detach().argmax(dim=1) == right).float().mean()


@MODELS.register_module()
class SimClr(Partner):
    """Two views of an image attract each other, and repel the views of other images.

    Args:
        clip: the CLIP whose image tower is trained; set by ``SlipPretrainer``.
        hidden: width of the two hidden layers of the head.
        output: E.
        temperature: divisor of the cosines.
        weights: an official SLIP checkpoint whose head it starts from.

    Raises:
        CheckpointError: weights without a head, or with one of another size.
    """

    def __init__(
        self,
        clip: CLIP,
        hidden: int = 4096,
        output: int = 256,
        temperature: float = 0.1,
        weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        check_positive(hidden=hidden, output=output, temperature=temperature)
        self.temperature = temperature
        self.head = mlp_head(feature_width(clip.image), hidden, output, layers=3)
        if weights is not None:
            self._load(weights)

    def loss(self, features: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        first, second = (self.head(view) for view in features)  # batch norm sees each view by itself
        loss, accuracy = simclr_loss(first, second, self.temperature)
        return {'ssl_loss': loss, 'ssl_accuracy': accuracy}

    def _load(self, weights: str | Path) -> None:
        """The head of an official checkpoint."""
        tensors = read_weights(weights).tensors
        found = {
            name.partition(_OFFICIAL)[2]: tensor
            for name, tensor in tensors.items()
            if name.removeprefix('module.').startswith(_OFFICIAL)
        }
        own = self.head.state_dict()
        if not found:
            raise CheckpointError(f'{weights} has no head of SLIP (image_mlp.*)')
        wrong = [name for name in own if name not in found or found[name].shape != own[name].shape]
        if wrong:
            raise CheckpointError(
                f'{weights}: {_OFFICIAL}{wrong[0]} does not fit the head: give hidden and output of the '
                'checkpoint, and the same width of the tower'
            )
        self.head.load_state_dict(found)
