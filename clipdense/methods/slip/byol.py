"""BYOL as the partner of CLIP.  B: images of this process, E: output of the projector."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.dense import feature_width
from clipdense.clip.model import CLIP
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS

from .heads import mlp_head
from .partner import check_positive
from .teacher import TeacherPartner


def byol_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """2 - 2 * cosine of predictions and targets, mean over the images.

    Args:
        prediction: (B, E), of the student.
        target: (B, E), of the teacher.

    Source: Grill et al., arXiv 2006.07733, equation 2.
    """
    prediction, target = (F.normalize(at_least_fp32(x), dim=-1) for x in (prediction, target))
    return 2 - 2 * (prediction * target.detach()).sum(dim=-1).mean()


@MODELS.register_module()
class Byol(TeacherPartner):
    """The student predicts what its teacher makes of the other view; there are no negatives.

    Args:
        clip: the CLIP whose image tower is trained; set by ``SlipPretrainer``.
        hidden: width of the hidden layers of projector and predictor.
        output: E.
        momentum: of the teacher in the first step; it grows to 1.

    Source: Grill et al., arXiv 2006.07733, sections 3.1 and 3.3.
    """

    def __init__(self, clip: CLIP, hidden: int = 4096, output: int = 256, momentum: float = 0.996) -> None:
        check_positive(hidden=hidden, output=output)
        projector = mlp_head(feature_width(clip.image), hidden, output, layers=2)
        super().__init__(clip.image, projector, momentum)
        self.predictor = mlp_head(output, hidden, output, layers=2)

    def loss(self, features: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        predicted = [self.predictor(self.head(view)) for view in features]  # (B, E) each
        with torch.no_grad():
            made = [self.teacher['head'](targets[f'view{index}']) for index in range(self.views)]
        loss = byol_loss(predicted[0], made[1]) + byol_loss(predicted[1], made[0])
        spread = F.normalize(at_least_fp32(made[0]), dim=-1).std(dim=0).mean()  # 0 after a collapse
        return {'ssl_loss': loss, 'ssl_spread': spread}
