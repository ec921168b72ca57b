"""Groups of parameters with their weight decay and learning rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from clipdense.utils.errors import InputError, nearest

_UNDECAYED = ('pos_embed', 'class_token')
_RULES: dict[str, Callable[[str, nn.Parameter], bool]] = {
    'open_clip': lambda name, p: p.ndim > 1 and name.rpartition('.')[2] not in _UNDECAYED,
    'open_clip 3.3.0': lambda name, p: p.ndim > 1,
    'slip': lambda name, p: p.ndim > 1 or name.rpartition('.')[2] == 'class_token',
    'all': lambda name, p: True,
}


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    rule: str = 'open_clip',
    layer_decay: Mapping[str, float] | None = None,
    lr: float = 1.0,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Trainable parameters in groups with and without weight decay; frozen ones are in none.

    Gains, biases and scalars (logit_scale, logit_bias) do not decay, except under 'all'.  Under the rule
    'open_clip', position embeddings and class tokens do not decay either; under 'open_clip 3.3.0' position
    embeddings do, and under 'slip' class tokens as well.

    Args:
        model: any module; frozen parameters (LiT's locked tower) have ``requires_grad=False``.
        weight_decay: of the groups that decay.
        rule: 'open_clip', 'open_clip 3.3.0', 'slip', or 'all' (BLIP).
        layer_decay: factor d of the learning rate for each layer further from the output, by name of a tower
            such as 'image': of G groups of layers, group g learns with ``lr * d ** (G - 1 - g)`` (BEiT).
        lr: of parameters that are in no such tower.
        lr_factors: factor of the learning rate of a part, by its name, such as 'clip'.

    Raises:
        InputError: an unknown rule, no trainable parameters, a factor out of range, or a tower or part that
            the model does not have.

    Source: open_clip ``main.py`` of 3.3.0 and of the main branch, which differ in the rule;
        facebookresearch/SLIP ``main.py``, whose class token has three dimensions; for layer decay BEiT
        (arXiv 2106.08254), ``optim_factory.LayerDecayValueAssigner``.
    """
    if rule not in _RULES:
        raise InputError(
            f'unknown weight-decay rule {rule!r}; use one of {list(_RULES)}.{nearest(rule, _RULES)}'
        )
    decays = _RULES[rule]
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trained:
        raise InputError('all parameters are frozen; at least one must be trainable')
    factors = _layer_factors(model, layer_decay or {})
    for part, factor in (lr_factors or {}).items():
        factors |= _part_factors(model, part, factor, factors)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in trained:
        groups[factors.get(name, 1.0), decays(name, parameter)].append(parameter)
    return [
        {'params': groups[key], 'weight_decay': weight_decay if key[1] else 0.0, **_rate(key[0], lr)}
        for key in sorted(groups, reverse=True)
    ]


def _part_factors(model: nn.Module, part: str, factor: float, known: Mapping[str, float]) -> dict[str, float]:
    """Factor of the learning rate by name, for all parameters of a part."""
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
        raise InputError(f'lr_factors of {part!r} must be a number above 0, got {factor!r}')
    own = [name for name, _ in model.named_parameters() if name == part or name.startswith(f'{part}.')]
    if not own:
        parts = [name for name, _ in model.named_children()]
        raise InputError(
            f'lr_factors names {part!r}, which the model does not have; its parts are {", ".join(parts)}.'
            f'{nearest(part, parts)}'
        )
    return {name: factor * known.get(name, 1.0) for name in own}


def _rate(factor: float, lr: float) -> dict[str, float]:
    """The learning rate of a group, where it is not that of the optimizer."""
    return {} if factor == 1 else {'lr': lr * factor}


def _layer_factors(model: nn.Module, layer_decay: Mapping[str, float]) -> dict[str, float]:
    """Factor of the learning rate by parameter name, for the parameters of the named towers."""
    if not isinstance(layer_decay, Mapping):
        raise InputError(f'layer_decay must name towers, such as {{"image": 0.75}}, got {layer_decay!r}')
    factors: dict[str, float] = {}
    towers = {name: part for name, part in model.named_modules() if hasattr(part, 'parameter_depths')}
    for tower, decay in layer_decay.items():
        if not 0 < decay <= 1:
            raise InputError(f'layer_decay of {tower!r} must be a factor in (0, 1], got {decay!r}')
        found = [name for name in towers if name == tower or name.endswith(f'.{tower}')]
        if len(found) != 1:
            known = ', '.join(sorted(name.rpartition('.')[2] for name in towers)) or 'none'
            raise InputError(f'layer_decay names {tower!r}, but the towers of the model are: {known}')
        depths: dict[str, int] = towers[found[0]].parameter_depths()
        last = max(depths.values())
        factors |= {f'{found[0]}.{name}': decay ** (last - depth) for name, depth in depths.items()}
    return factors
