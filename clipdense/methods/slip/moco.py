"""MoCo v3 as the partner of CLIP.  B: images of this process, P: processes, E: output of the heads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.dense import feature_width
from clipdense.clip.model import CLIP
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS
from clipdense.utils.dist import gather_with_grad, rank

from .heads import mlp_head
from .partner import check_positive
from .teacher import TeacherPartner


def moco_loss(query: Tensor, key: Tensor, temperature: float = 0.2) -> Tensor:
    """Cross entropy of each query over the keys of the global batch, times ``2 * temperature``.

    Args:
        query: (B, E), of the student.
        key: (B, E), of the teacher; without gradient.
        temperature: divisor of the cosines.

    Source: Chen et al., arXiv 2104.02057, algorithm 1.
    """
    query, key = (F.normalize(at_least_fp32(x), dim=-1) for x in (query, key))
    keys = gather_with_grad(key.detach())  # (P * B, E)
    right = torch.arange(len(query), device=query.device) + rank() * len(query)
    return 2 * temperature * F.cross_entropy(query @ keys.mT / temperature, right)


@MODELS.register_module()
class MocoV3(TeacherPartner):
    """The student finds what its teacher makes of the other view among those of all images.

    Args:
        clip: the CLIP whose image tower is trained; set by ``SlipPretrainer``.
        hidden: width of the hidden layers of projector (three layers) and predictor (two).
        output: E.
        temperature: divisor of the cosines.
        momentum: of the teacher in the first step; it grows to 1.
        freeze_patches: keep the patch embedding of a ViT at its initial values, which makes the training of
            larger ones stable.

    Source: Chen et al., arXiv 2104.02057; facebookresearch/moco-v3 ``moco/builder.py``.
    """

    def __init__(
        self,
        clip: CLIP,
        hidden: int = 4096,
        output: int = 256,
        temperature: float = 0.2,
        momentum: float = 0.99,
        freeze_patches: bool = False,
    ) -> None:
        check_positive(hidden=hidden, output=output, temperature=temperature)
        width = feature_width(clip.image)
        projector = mlp_head(width, hidden, output, layers=3, last_norm=True, bias=False)
        super().__init__(clip.image, projector, momentum)
        self.predictor = mlp_head(output, hidden, output, layers=2, last_norm=True, bias=False)
        self.temperature = temperature
        if freeze_patches and hasattr(clip.image, 'patch_embed'):
            clip.image.patch_embed.requires_grad_(False)

    def loss(self, features: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        first, second = (self.predictor(self.head(view)) for view in features)  # (B, E) each
        with torch.no_grad():
            keys = [self.teacher['head'](targets[f'view{index}']) for index in range(self.views)]
        loss = moco_loss(first, keys[1], self.temperature) + moco_loss(second, keys[0], self.temperature)
        return {'ssl_loss': loss}
