"""DINO as the partner of CLIP: self-distillation with a centered teacher.

B: images of this process, V: views, E: output of the head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.dense import feature_width
from clipdense.clip.model import CLIP
from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS
from clipdense.utils.dist import gather_with_grad
from clipdense.utils.errors import InputError

from .partner import check_positive
from .teacher import TeacherPartner

_STD = 0.02  # of the initial weights


class DinoHead(nn.Module):
    """(N, C) -> (N, E): three layers with GELU, a unit bottleneck, and a layer of unit weights.

    Args:
        width: C.
        hidden: width of the hidden layers.
        bottleneck: width of the last layer's input.
        output: E.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, output: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=_STD)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(output, bottleneck))
        nn.init.kaiming_uniform_(self.prototypes, a=5**0.5)  # as of a linear layer

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        """``frozen``: no gradient for the last layer."""
        prototypes = F.normalize(self.prototypes, dim=-1)
        return F.linear(F.normalize(self.mlp(x), dim=-1), prototypes.detach() if frozen else prototypes)


def dino_loss(
    student: Sequence[Tensor], teacher: Sequence[Tensor], center: Tensor, temperature: float, sharpness: float
) -> Tensor:
    """Cross entropy of the student's distribution of a view and the teacher's of each other view.

    Args:
        student, teacher: (B, E) logits of V views.
        center: (E,), subtracted from the teacher's.
        temperature: of the student.
        sharpness: temperature of the teacher, smaller.

    Source: Caron et al., arXiv 2104.14294, algorithm 1.
    """
    targets = [((at_least_fp32(x) - center) / sharpness).softmax(dim=-1).detach() for x in teacher]
    scores = [(at_least_fp32(x) / temperature).log_softmax(dim=-1) for x in student]
    pairs = [
        -(target * score).sum(dim=-1).mean()
        for at, target in enumerate(targets)
        for other, score in enumerate(scores)
        if at != other
    ]
    return torch.stack(pairs).mean()


@MODELS.register_module()
class Dino(TeacherPartner):
    """The student gives the distribution over prototypes that its teacher gives for the other view.

    Two views of the whole size; the small crops of the paper are not used.

    Args:
        clip: the CLIP whose image tower is trained; set by ``SlipPretrainer``.
        hidden: width of the hidden layers of the head.
        output: E, the number of prototypes.
        bottleneck: width before the prototypes.
        temperatures: of the student and of the teacher.
        momentum: of the teacher in the first step; it grows to 1.
        center_momentum: of the mean of the teacher's logits, which keeps it from a single prototype.
        freeze_prototypes: fraction of the training in which the prototypes do not learn (the paper: the first
            of 100 epochs).

    Raises:
        InputError: a teacher that is not sharper than the student, a fraction or momentum outside 0 to 1.

    Source: Caron et al., arXiv 2104.14294; facebookresearch/dino ``main_dino.py``.
    """

    least = 1
    center: Tensor

    def __init__(
        self,
        clip: CLIP,
        hidden: int = 2048,
        output: int = 65_536,
        bottleneck: int = 256,
        temperatures: tuple[float, float] = (0.1, 0.04),
        momentum: float = 0.996,
        center_momentum: float = 0.9,
        freeze_prototypes: float = 0.01,
    ) -> None:
        student, teacher = temperatures
        check_positive(hidden=hidden, output=output, bottleneck=bottleneck, student=student, teacher=teacher)
        if teacher > student:
            raise InputError(
                f'the temperature of the teacher ({teacher}) must not be above that of the student '
                f'({student})'
            )
        for name, value in {
            'center_momentum': center_momentum,
            'freeze_prototypes': freeze_prototypes,
        }.items():
            if not 0 <= value <= 1:
                raise InputError(f'{name} must be between 0 and 1, got {value!r}')
        head = DinoHead(feature_width(clip.image), hidden, bottleneck, output)
        super().__init__(clip.image, head, momentum)
        self.temperatures, self.center_momentum = (student, teacher), center_momentum
        self.freeze_prototypes = freeze_prototypes
        self.register_buffer('center', torch.zeros(output))

    def loss(self, features: tuple[Tensor, ...], targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        frozen = self.progress < self.freeze_prototypes
        student = [self.head(view, frozen) for view in features]  # (B, E) each
        with torch.no_grad():
            teacher = [self.teacher['head'](targets[f'view{index}']) for index in range(self.views)]
        loss = dino_loss(student, teacher, self.center, *self.temperatures)
        self._move_center(torch.stack(teacher))
        return {'ssl_loss': loss}

    @torch.no_grad()
    def _move_center(self, logits: Tensor) -> None:
        """Towards the mean logits (V, B, E) over the views of all processes."""
        if not self.training:
            return
        mean = gather_with_grad(at_least_fp32(logits).mean(dim=(0, 1))[None]).mean(0)
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.center_momentum)
