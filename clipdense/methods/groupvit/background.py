"""A place for what no caption names: a training constraint of ours, not of the paper.

B: pictures, G: groups, M: prompts of a picture, D: joint space, P: processes.
"""

from __future__ import annotations

import torch
from torch import Tensor

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

    The first half asks each group to prefer one of its caption's phrases, or the learned background, to the
    phrases of the other pictures.  Alone it would be content with background everywhere; the second half, the
    multi-label loss over groups pooled by log-sum-exp, asks some group for each phrase.

    Args:
        groups: (B, G, D), unit norm.
        prompts: (B, M, D), unit norm.
        background: (D,), unit norm.
        logit_scale: the factor itself.
        phrases: (B, M), see ``multi_label_loss``.
    """
    claimed = multi_label_loss(groups, prompts, logit_scale, 'mean', phrases)
    everyone = gather_with_grad(prompts)  # (P * B, M, D)
    choices = torch.cat([everyone.flatten(0, 1), background[None]])  # (P * B * M + 1, D)
    log_p = (logit_scale * groups @ choices.mT).log_softmax(dim=-1)  # (B, G, P * B * M + 1)
    if phrases is None:
        own = (prompts.flatten(1)[:, None] == everyone.flatten(1)).all(dim=-1)  # (B, P * B)
        right = own.repeat_interleave(prompts.shape[1], dim=1)  # (B, P * B * M)
    else:
        right = (phrases[:, :, None] == gather_with_grad(phrases).flatten()).any(dim=1)
    right = torch.cat([right, right.new_ones(len(right), 1)], dim=1)[:, None]  # background is always right
    rejected = -log_p.masked_fill(~right, -torch.inf).logsumexp(dim=-1).mean()
    return claimed + rejected
