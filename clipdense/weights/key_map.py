"""Tables that map state-dict names of clipdense to those of official layouts, in both directions.

A row is (name in clipdense, name in the layout, form).  ``{n}`` is a number, ``{p}`` 'weight' or 'bias',
``{any}`` anything; ``a + b`` are tensors that are concatenated along the first axis on the other side,
``2*a`` one with two shares of it.
Packages of models add the tables of their layouts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from clipdense.utils.errors import CheckpointError

Row = tuple[str, str, str]

_HOLES = {'{n}': r'(\d+)', '{p}': '(weight|bias)', '{any}': '(.+)'}
_FORMS: dict[
    str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]
] = {  # to clipdense, from clipdense
    'same': (lambda x: x, lambda x: x),
    'transposed': (lambda x: x.t(), lambda x: x.t()),
    'scalar': (lambda x: x.reshape(()) if x.numel() == 1 else x, lambda x: x),
    'first': (lambda x: x[0], lambda x: x.unsqueeze(0)),
    'one': (lambda x: x.squeeze(0), lambda x: x.unsqueeze(0)),
    'one one': (lambda x: x.squeeze(0).squeeze(0), lambda x: x.unsqueeze(0).unsqueeze(0)),
    'last one': (lambda x: x.squeeze(-1), lambda x: x.unsqueeze(-1)),
}


_LAYOUTS: dict[str, tuple[Sequence[Row], re.Pattern[str] | None]] = {}


def add_layout(name: str, rows: Sequence[Row], dropped: re.Pattern[str] | None = None) -> None:
    """Register the table of a layout.

    Args:
        name: of the layout.
        rows: the table.
        dropped: matches names in the layout that the model does not need.
    """
    _LAYOUTS[name] = (rows, dropped)


def to_ours(tensors: Mapping[str, Tensor], layout: str) -> tuple[dict[str, Tensor], list[str]]:
    """Rename tensors of an official layout; also returns the names that the layout does not define.

    Raises:
        CheckpointError: a part of a concatenated tensor is missing, or shapes do not fit the layout.
    """
    dropped = _LAYOUTS[layout][1]
    kept = {name: x for name, x in tensors.items() if dropped is None or not dropped.fullmatch(name)}
    return _rename(kept, _rules(layout, to_ours=True))


def from_ours(tensors: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """Rename tensors to an official layout; the exact inverse of ``to_ours``.

    Raises:
        CheckpointError: tensors that the layout does not define.
    """
    renamed, leftover = _rename(tensors, _rules(layout, to_ours=False))
    if leftover:
        shown = ', '.join(leftover[:10])
        raise CheckpointError(f'the layout {layout} does not define {len(leftover)} tensors: {shown}')
    return renamed


@dataclass(frozen=True)
class _Rule:
    sources: tuple[tuple[re.Pattern[str], str], ...]  # pattern to match, template of the name
    targets: tuple[tuple[str, int], ...]  # template, share of the first axis
    form: Callable[[Tensor], Tensor]


@cache
def _rules(layout: str, to_ours: bool) -> tuple[_Rule, ...]:
    rules = []
    for ours, theirs, form in _LAYOUTS[layout][0]:
        source, target = (theirs, ours) if to_ours else (ours, theirs)
        sources = tuple((_pattern(part), part) for part, _ in _parts(source))
        rules.append(_Rule(sources, _parts(target), _FORMS[form][0 if to_ours else 1]))
    return tuple(rules)


def _parts(side: str) -> tuple[tuple[str, int], ...]:
    """'a + 2*b' -> (('a', 1), ('b', 2))."""
    parts = (part.split('*', 1) if '*' in part else ('1', part) for part in side.split(' + '))
    return tuple((name, int(share)) for share, name in parts)


def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r'(\{\w+\})', template)
    return re.compile(''.join(_HOLES.get(piece) or re.escape(piece) for piece in pieces))


def _fill(template: str, values: tuple[str, ...]) -> str:
    remaining = iter(values)
    return re.sub(r'\{\w+\}', lambda _: next(remaining), template)


def _rename(tensors: Mapping[str, Tensor], rules: tuple[_Rule, ...]) -> tuple[dict[str, Tensor], list[str]]:
    renamed: dict[str, Tensor] = {}
    leftover: list[str] = []
    done: set[str] = set()
    for name in tensors:
        if name in done:
            continue
        rule, values = _find(name, rules)
        if rule is None:
            leftover.append(name)
            continue
        names = [_fill(template, values) for _, template in rule.sources]
        missing = [part for part in names if part not in tensors]
        if missing:
            raise CheckpointError(f'{name} exists, but not {", ".join(missing)}: all parts are needed')
        done.update(names)
        parts = [tensors[part] for part in names]
        joined = _joined(rule, names, parts)
        for (template, _), part in zip(rule.targets, _split(joined, rule.targets), strict=True):
            renamed[_fill(template, values)] = part
    return renamed, leftover


def _joined(rule: _Rule, names: Sequence[str], parts: Sequence[Tensor]) -> Tensor:
    try:
        if len({part.is_floating_point() for part in parts}) > 1:
            raise RuntimeError('torch.cat would hide quantized parts')
        return rule.form(parts[0] if len(parts) == 1 else torch.cat(list(parts)))
    except (IndexError, RuntimeError) as error:
        problems = ', '.join(
            f'{name} {tuple(part.shape)} {str(part.dtype).removeprefix("torch.")}'
            for name, part in zip(names, parts, strict=True)
        )
        raise CheckpointError(f'unexpected shapes or data types: {problems}') from error


def _find(name: str, rules: tuple[_Rule, ...]) -> tuple[_Rule | None, tuple[str, ...]]:
    for rule in rules:
        for pattern, _ in rule.sources:
            if match := pattern.fullmatch(name):
                return rule, match.groups()
    return None, ()


def _split(tensor: Tensor, targets: tuple[tuple[str, int], ...]) -> tuple[Tensor, ...]:
    if len(targets) == 1:
        return (tensor,)
    shares = [share for _, share in targets]
    if tensor.ndim == 0 or len(tensor) % sum(shares):
        raise CheckpointError(
            f'a tensor of shape {tuple(tensor.shape)} cannot be split into '
            f'{", ".join(name for name, _ in targets)}'
        )
    unit = len(tensor) // sum(shares)
    return tensor.split([unit * share for share in shares])
