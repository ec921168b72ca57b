"""A place for what no caption names: a training constraint of ours, not of the paper.

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
    """Every group is a phrase of its own caption or background, and every phrase has a group.

    The sum of three parts, of which each is wrong alone:

    * rejected: each group prefers one of its caption's phrases, or the background, to the phrases of the
      other images.  Background everywhere would do.
    * found: for each phrase some group prefers it to all phrases of others *and to the background*, which
      can therefore not take everything.
    * told apart: the multi-label loss over groups pooled by log-sum-exp, so that a phrase also prefers the
      groups of its own image to those of the others.

    Args:
        groups: (B, G, D), unit norm.
        prompts: (B, M, D), unit norm.
        background: (D,), unit norm.
        logit_scale: the factor itself.
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
    """Whether a prompt of this process says the same as each prompt of all: (B, M, T)."""
    if phrases is not None:
        return phrases[..., None] == gather_with_grad(phrases).flatten()
    own = (prompts.flatten(1)[:, None] == everyone.flatten(1)).all(dim=-1)  # (B, P * B)
    each = torch.eye(prompts.shape[1], dtype=torch.bool, device=own.device)  # prompts of one image differ
    return (own[:, None, :, None] & each[:, None]).flatten(2)


def _log_total(log_p: Tensor, which: Tensor) -> Tensor:
    """Logarithm of the probability of all that are meant, along the last axis."""
    return log_p.masked_fill(~which, -torch.inf).logsumexp(dim=-1)
