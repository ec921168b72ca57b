"""Activations by name.  Mixing up QuickGELU and GELU silently lowers accuracy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

_QUICK = 1.702


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of OpenAI's weights (openai/CLIP clip/model.py)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x * _QUICK) / _QUICK  # the same function with one fused kernel


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    'quick_gelu': QuickGELU,
    'gelu': nn.GELU,
    'gelu_tanh': partial(nn.GELU, approximate='tanh'),
}


def activation(name: str) -> nn.Module:
    """The activation module called ``name``.

    Raises:
        ValueError: an unknown name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f'unknown activation {name!r}: choose from {sorted(ACTIVATIONS)}')
    return ACTIVATIONS[name]()
