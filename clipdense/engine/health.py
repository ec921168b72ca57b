"""Checks of a run: finite weights, losses that teach nothing or explode, and the samples of a batch.

B: samples of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.errors import InputError

_LARGEST = 1e8  # of a weight; trained ones are below 1e3
_VARIANCE = 1e16  # of a running variance
_SPIKE = 1000  # times the usual loss
_SETTLED = 20  # steps before a loss counts as usual
_WARNINGS = 3  # of each kind
_NAMED = 8  # samples in a message
_ONE_VALUE = (
    'batch norm needs more than one value per channel: use a larger batch_size or larger images, and '
    'drop_last=True where the last batch is smaller'
)
_MEMORY = 'out of memory: lower batch_size, or set micro_batch where the model has it'
_ERRORS = {  # part of a message of torch or of layers.batch_norm -> what it means
    'more than 1 value per channel': _ONE_VALUE,
    'batch norm needs more than one row': _ONE_VALUE,
    'out of memory': _MEMORY,
    "can't allocate memory": _MEMORY,
}


def weights_fault(checkpoint: Mapping[str, Any]) -> str | None:
    """What makes the weights of a checkpoint unusable, or None.

    Args:
        checkpoint: ``state_dict`` and, optionally, ``optimizer``; NaN and infinity count in both, implausible
            values (above 1e8, as after a divergence) in the weights.
    """
    weights = [(name, t) for name, t in checkpoint.get('state_dict', {}).items() if _is_number(t)]
    for (name, _), peak in zip(weights, _peaks([t for _, t in weights]), strict=True):
        if not math.isfinite(peak):
            return f'{name} is not finite'
        if peak > (_VARIANCE if name.endswith('running_var') else _LARGEST):
            return f'{name} has values up to {peak:.1g}: training has diverged'
    states = [t for t in _tensors(checkpoint.get('optimizer', {})) if _is_number(t)]
    if not all(map(math.isfinite, _peaks(states))):
        return 'the state of the optimizer is not finite'
    return None


class LossWatch:
    """Tells losses from which nothing is learned, and losses that explode; a few of each kind.

    A loss of exactly 0 has no gradient: a single pair in a contrastive loss, or no labeled pixel.
    """

    def __init__(self) -> None:
        self._usual, self._count = 0.0, 0
        self._zeros = self._spikes = 0

    def remark(self, loss: float) -> str | None:
        """What is to be said about the loss of a step, or None."""
        if loss == 0:
            self._zeros += 1
            if self._zeros <= _WARNINGS:
                more = '; further ones are not logged' if self._zeros == _WARNINGS else ''
                return (
                    'the loss is exactly 0, so nothing is learned from this batch (a single pair, or no '
                    f'labeled pixel or object){more}'
                )
            return None
        size, usual = abs(loss), self._usual
        spike = self._count >= _SETTLED and size > _SPIKE * max(usual, 1e-6)
        if not spike:
            self._count += 1
            self._usual += (size - usual) / min(self._count, 100)
            return None
        self._spikes += 1
        if self._spikes > _WARNINGS:
            return None
        return f'the loss is {loss:.4g}, far above the usual {usual:.4g}: the run may be diverging'


def sample_names(batch: Any) -> list[str]:
    """Files, image ids or shard keys of the samples of a batch; empty where the data has none."""
    if not isinstance(batch, Mapping):
        return []
    if 'names' in batch:
        return [str(name) for name in batch['names']]
    samples = batch.get('samples', batch.get('data_samples', ()))
    samples = samples if isinstance(samples, (list, tuple)) else [samples]
    return [name for name in map(_name, samples) if name]


def listed(names: list[str]) -> str:
    """'; samples of the batch: a, b, ... (64 in all)', or nothing without names."""
    if not names:
        return ''
    more = f', ... ({len(names)} in all)' if len(names) > _NAMED else ''
    return f'; samples of the batch: {", ".join(names[:_NAMED])}{more}'


def without_names(batch: Any) -> Any:
    """The batch without the names of its samples, which few models take (``Model.takes_names``)."""
    if isinstance(batch, Mapping) and 'names' in batch:
        return {key: value for key, value in batch.items() if key != 'names'}
    return batch


def equal_captions(batch: Any) -> bool:
    """Whether a batch has several captions, all of them equal."""
    ids = batch.get('token_ids') if isinstance(batch, Mapping) else None
    return isinstance(ids, Tensor) and ids.ndim == 2 and len(ids) > 1 and bool((ids == ids[:1]).all())


def explained(error: Exception, step: int, names: list[str]) -> InputError | None:
    """The error of a training step in plain words, where its cause is the batch or the memory."""
    text = str(error)
    for part, meaning in _ERRORS.items():
        if part in text:
            return InputError(f'step {step}: {meaning}{listed(names)}')
    return None


def _name(sample: Any) -> str:
    for attribute in ('image_path', 'img_path'):
        path = getattr(sample, attribute, None)
        if path:
            number = getattr(sample, 'img_id', None)
            return str(path) if number is None else f'{path} (image id {number})'
    return ''


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.numel() > 0


def _peaks(tensors: list[Tensor]) -> list[float]:
    """The largest absolute value of each, NaN where one is NaN."""
    if not tensors:
        return []
    parts = [t.to_local() if hasattr(t, 'to_local') else t for t in tensors]  # that of this process
    peaks = [t.detach().abs().amax().double() if t.numel() else t.new_zeros(()).double() for t in parts]
    return torch.stack([peak.to(parts[0].device) for peak in peaks]).tolist()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
