"""DetPro's losses: regions of objects and of background.  N: regions, K: classes.

Source: Du et al., arXiv 2203.14940, section 3.2; dyabel/detpro ``prompt/trainer.py``, ``prompt/run.py``.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32
from clipdense.utils.errors import InputError

Mode = Literal['soft', 'hinge', 'mean', 'mean_background', 'max', 'learn', 'fg_only']


def background_loss(
    logits: Tensor, labels: Tensor, mode: Mode = 'soft', class_weight: Tensor | None = None
) -> Tensor:
    """Cross entropy of objects, and a loss for background, which has no class name.

    ==================  ==============================================================================
    mode                background
    ==================  ==============================================================================
    'soft'              no class is more probable than another: the target is 1 / K for each (the paper)
    'hinge'             probabilities above 1 / K count
    'mean'              one more class, whose logit is the mean of the others
    'mean_background'   the same, for regions of background only
    'max'               one more class, whose logit is 1 - the largest of the others
    'learn'             one more class, whose logit is the last column: a learned background
    'fg_only'           regions of background do not count
    ==================  ==============================================================================

    Args:
        logits: (N, K) cosines over the temperature; (N, K + 1) for 'learn'.
        labels: (N,), K for background.
        mode: see above.
        class_weight: (K + 1,), weight of each class and of background; 1 by default.

    Returns:
        A scalar: divided by N for 'hinge' and 'mean_background', else by the sum of the weights of the
        regions; 0 without a region that counts.

    Raises:
        InputError: an unknown mode, shapes that do not fit, or a label without a class.
    """
    classes = _check(logits, labels, mode, class_weight)
    logits = at_least_fp32(logits)
    weight = logits.new_ones(classes + 1) if class_weight is None else class_weight.to(logits)
    is_object = labels < classes
    if mode == 'fg_only':
        logits, labels = logits[is_object], labels[is_object]
    shares = weight[labels]  # (N,)
    with_background = _with_background(logits, mode, is_object)
    if with_background is not None:
        total = (shares * F.cross_entropy(with_background, labels, reduction='none')).sum()
        return total / _positive(
            shares.new_tensor(len(labels)) if mode == 'mean_background' else shares.sum()
        )
    objects = F.cross_entropy(logits[is_object], labels[is_object], reduction='none')
    total = (shares[is_object] * objects).sum()
    rest = logits[~is_object]
    if mode == 'soft':
        total = total - weight[-1] * rest.log_softmax(dim=1).sum() / classes
        return total / _positive(shares.sum())
    excess = (rest.softmax(dim=1) - 1 / classes).clamp(min=0)
    return (total + weight[-1] * excess.sum()) / _positive(shares.new_tensor(len(labels)))


def frequency_weights(labels: Tensor, num_classes: int) -> Tensor:
    """(N,) labels of a dataset, K for background -> (K + 1,) weights: 1 / frequency.

    The frequency of a class is K n / N for n regions of it, that of background 2 n / N.  A class without
    regions has weight 0.
    """
    counts = labels.bincount(minlength=num_classes + 1).double()
    scale = torch.full_like(counts, num_classes)
    scale[-1] = 2
    frequency = scale * counts / max(len(labels), 1)
    return torch.where(counts > 0, 1 / frequency.clamp(min=1e-300), 0.0).float()


def _with_background(logits: Tensor, mode: Mode, is_object: Tensor) -> Tensor | None:
    """Logits whose cross entropy is the loss; None for 'soft' and 'hinge'."""
    if mode in ('soft', 'hinge'):
        return None
    if mode in ('learn', 'fg_only'):
        return logits
    if mode == 'max':
        return torch.cat([logits, 1 - logits.amax(dim=1, keepdim=True)], dim=1)
    mean = logits.mean(dim=1, keepdim=True)
    if mode == 'mean_background':
        mean = mean.masked_fill(is_object[:, None], -torch.inf)
    return torch.cat([logits, mean], dim=1)


def _check(logits: Tensor, labels: Tensor, mode: str, class_weight: Tensor | None) -> int:
    """K."""
    if mode not in get_args(Mode):
        raise InputError(f'mode must be one of {", ".join(get_args(Mode))}; got {mode!r}')
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise InputError(
            f'logits must be (N, K) and labels (N,), got {tuple(logits.shape)} and {tuple(labels.shape)}'
        )
    classes = logits.shape[1] - (mode == 'learn')
    if classes < 1:
        raise InputError('there are no classes')
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) <= classes:
        raise InputError(
            f'labels are {int(labels.min())} to {int(labels.max())}; they must be from 0 to {classes - 1}, '
            f'or {classes} for background'
        )
    if class_weight is not None and class_weight.shape != (classes + 1,):
        raise InputError(
            f'class_weight must have {classes + 1} values (the last for background), got '
            f'{tuple(class_weight.shape)}'
        )
    return classes


def _positive(divisor: Tensor) -> Tensor:
    return torch.where(divisor > 0, divisor, 1)
