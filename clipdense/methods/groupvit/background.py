"""A loss for a learned background embedding (not in the paper).

B: images, G: groups, M: prompts of an image, P: processes, T: prompts of all images (P * B * M),
D: joint space.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.losses import multi_label_loss
from clipdense.utils.dist import gather_with_grad


def background_loss(
    groups: Tensor,
    prompts: Tensor,
    background: Tensor,
    logit_scale: Tensor | float,
    phrases: Tensor | None = None,
) -> Tensor:
    """Each group matches a phrase of its own caption or the background, and each phrase has a group.

    The sum of three terms:

    * rejected: the probability that a group matches a phrase of its own caption or the background, among all
      phrases of the batch and the background.  Alone, it allows background for all groups.
    * found: for each phrase, the total probability over the groups, *with the background as a competitor*.
    * separated: the multi-label loss over groups pooled by log-sum-exp, which contrasts the groups of an
      image with those of the other images for each phrase.

    Args:
        groups: (B, G, D), unit norm.
        prompts: (B, M, D), unit norm.
        background: (D,), unit norm.
        logit_scale: the factor, not its logarithm.
        phrases: (B, M), see ``multi_label_loss``.
    """
    everyone = gather_with_grad(prompts)  # (P * B, M, D)
    choices = torch.cat([everyone.flatten(0, 1), background[None]])  # (T + 1, D)
    log_p = (logit_scale * groups @ choices.mT).log_softmax(dim=-1)  # (B, G, T + 1)
    own = _same(prompts, everyone, phrases)  # (B, M, T)
    allowed = F.pad(own.any(dim=1), (0, 1), value=True)[:, None]  # (B, 1, T + 1)
    rejected = -_log_total(log_p, allowed).mean()
    named = torch.stack([_log_total(log_p[..., :-1], one[:, None]) for one in own.unbind(1)])  # (M, B, G)
    found = -named.logsumexp(dim=-1).clamp(max=0).mean()
    return rejected + found + multi_label_loss(groups, prompts, logit_scale, 'mean', phrases)


def _same(prompts: Tensor, everyone: Tensor, phrases: Tensor | None) -> Tensor:
    """Whether a prompt of this process equals each prompt of all processes: (B, M, T)."""
    if phrases is not None:
        return phrases[..., None] == gather_with_grad(phrases).flatten()
    own = (prompts.flatten(1)[:, None] == everyone.flatten(1)).all(dim=-1)  # (B, P * B)
    each = torch.eye(prompts.shape[1], dtype=torch.bool, device=own.device)  # prompts of one image differ
    return (own[:, None, :, None] & each[:, None]).flatten(2)


def _log_total(log_p: Tensor, which: Tensor) -> Tensor:
    """Logarithm of the total probability of the selected entries, along the last axis."""
    return log_p.masked_fill(~which, -torch.inf).logsumexp(dim=-1)
