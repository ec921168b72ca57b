"""Losses of BLIP, functions of tensors.  B: texts, L: tokens, V: ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32

if TYPE_CHECKING:
    from .model import Blip
    from .tokenizer import Tokens

IGNORE = -100


def lm_labels(ids: Tensor, keep: Tensor, prompt: int = 0) -> Tensor:
    """Targets of language modeling: the ids (B, L), without padding and the first ``prompt`` ids."""
    labels = ids.masked_fill(keep == 0, IGNORE)
    labels[:, :prompt] = IGNORE
    return labels


def lm_loss(scores: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross entropy of the next id.

    Args:
        scores: (B, L, V), at each position those of the next id.
        labels: (B, L), ``IGNORE`` for ids that are not learned.
        smoothing: part of the target that is spread over all ids.

    Returns:
        The mean over the learned ids.

    Source: salesforce/BLIP models/med.py ``BertLMHeadModel``.
    """
    scores, labels = at_least_fp32(scores[:, :-1]), labels[:, 1:]
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)


def answer_losses(scores: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """The sum of the losses of the ids of each text: (B, L, V), (B, L) -> (B,); see ``lm_loss``."""
    scores, labels = at_least_fp32(scores[:, :-1]), labels[:, 1:]
    losses = F.cross_entropy(scores.mT, labels, reduction='none', label_smoothing=smoothing)
    return losses.sum(dim=1)


def caption_loss(blip: Blip, tokens: Tensor, texts: Tokens, smoothing: float, prompt: int = 0) -> Tensor:
    """Language modeling of texts (B, L) of any first id, from image tokens (B, S, W); see ``lm_loss``."""
    ids = texts.ids.clone()
    ids[:, 0] = blip.text_size.ids.dec
    scores = blip.predict(blip.need_decoder().read(tokens), ids, texts.keep)  # (B, L, V)
    return lm_loss(scores, lm_labels(ids, texts.keep, prompt), smoothing)


def soft_cross_entropy(
    logits: Tensor, target_logits: Tensor, alpha: float, positives: Tensor | None = None
) -> Tensor:
    """Cross entropy with targets that a momentum model softens.

    Args:
        logits: (B, M), M at least B.
        target_logits: (B, M), of the momentum model, without gradient.
        alpha: weight of its softmax against the target.
        positives: targets (B, M) whose rows have the sum 1; column b for row b by default.

    Returns:
        The mean over rows.

    Source: salesforce/BLIP models/blip_pretrain.py.
    """
    targets = alpha * target_logits.softmax(dim=1)  # (B, M)
    if positives is None:
        targets.diagonal().add_(1 - alpha)
    else:
        targets += (1 - alpha) * positives
    return -(logits.log_softmax(dim=1) * targets).sum(dim=1).mean()


def negative_weights(logits: Tensor, same: Tensor | None = None) -> Tensor:
    """Weights for drawing a hard negative of each row.

    Args:
        logits: (B, B).
        same: (B, B) bool, True where row and column have one image; by default the diagonal, where weights
            are at least 1e-4, as in pre-training.

    Returns:
        (B, B), 0 where row and column have one image.  All weights of a row are 0 only if all columns do.
    """
    weights = logits.detach().softmax(dim=1)
    if same is None:
        return (weights + 1e-4).fill_diagonal_(0)
    weights = weights.masked_fill(same, 0)
    none = weights.sum(dim=1, keepdim=True) == 0  # the softmax of the others is below the smallest number
    return torch.where(none, (~same).to(weights.dtype), weights)


def matching_loss(scores: Tensor, matches: int) -> Tensor:
    """Cross entropy of scores (R, 2), whose first rows match and whose others do not."""
    labels = (torch.arange(len(scores), device=scores.device) < matches).long()
    return F.cross_entropy(at_least_fp32(scores), labels)
