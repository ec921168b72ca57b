"""Contrastive losses as functions of tensors.

B: pairs in this process, P: processes, D: joint space.  Embeddings have unit norm.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.utils.dist import gather_with_grad, rank


def contrastive_loss(
    image_embeddings: Tensor, text_embeddings: Tensor, logit_scale: Tensor | float
) -> Tensor:
    """Symmetric cross entropy over the global batch; gradients flow through the gather.

    Each process scores its own B rows against all P * B columns, so that the mean over processes is the
    loss of the whole batch and nothing is computed twice.

    Args:
        image_embeddings, text_embeddings: (B, D).
        logit_scale: the factor itself, not its logarithm; 1 / temperature.

    Source: CLIP, figure 3; open_clip ``ClipLoss`` with ``local_loss`` and ``gather_with_grad``.
    """
    all_images, all_texts = (
        gather_with_grad(image_embeddings),
        gather_with_grad(text_embeddings),
    )  # (P * B, D)
    image_logits = logit_scale * image_embeddings @ all_texts.mT  # (B, P * B)
    text_logits = logit_scale * text_embeddings @ all_images.mT
    batch = len(image_embeddings)
    target = torch.arange(batch, device=image_logits.device) + rank() * batch
    return (F.cross_entropy(image_logits, target) + F.cross_entropy(text_logits, target)) / 2


def sigmoid_loss(
    image_embeddings: Tensor, text_embeddings: Tensor, logit_scale: Tensor | float, logit_bias: Tensor | float
) -> Tensor:
    """Every pair on its own: matching or not, summed and divided by the number of pictures of this process.

    Args:
        image_embeddings, text_embeddings: (B, D).
        logit_scale: the factor itself.
        logit_bias: added to every logit; starts at -10 because almost all pairs do not match.

    Source: SigLIP, algorithm 1 (arXiv 2303.15343).
    """
    all_texts = gather_with_grad(text_embeddings)  # (P * B, D)
    logits = logit_scale * image_embeddings @ all_texts.mT + logit_bias  # (B, P * B)
    batch = len(image_embeddings)
    target = torch.arange(batch, device=logits.device) + rank() * batch
    signs = torch.full_like(logits, -1).scatter_(1, target[:, None], 1)
    return -F.logsigmoid(signs * logits).sum() / batch


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """(B, K) logits each: cross entropy of the student with the teacher's distribution as target."""
    return -(teacher_logits.softmax(dim=-1) * student_logits.log_softmax(dim=-1)).sum(dim=-1).mean()
