"""Contrastive losses as functions of tensors.

B: pairs in this process, P: processes, D, E: joint spaces, T: texts of a chunk, N: patches, M: prompts of an
image.  Embeddings have unit norm.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from clipdense.utils.dist import gather_with_grad, rank, start_shift, world_size


def contrastive_loss(
    image_embeddings: Tensor, text_embeddings: Tensor, logit_scale: Tensor | float
) -> Tensor:
    """Symmetric cross entropy over the global batch; gradients flow through the gather.

    Each process scores its own B rows against all P * B columns; the mean over processes is the loss of the
    global batch.

    Args:
        image_embeddings, text_embeddings: (B, D).
        logit_scale: the factor, not its logarithm; 1 / temperature.

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
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    chunk: int = 4096,
) -> Tensor:
    """Binary cross entropy of every pair, summed and divided by the number of images of this process.

    The texts of the other processes come by in a ring, and their gradients travel along until they are home.
    Logits are computed for a chunk of texts at a time and are not kept, so that memory does not grow with the
    number of processes.

    Args:
        image_embeddings, text_embeddings: (B, D).
        logit_scale: the factor, not its logarithm.
        logit_bias: added to every logit; starts at -10 because almost all pairs do not match.
        chunk: number of texts whose B logits each are in memory.

    Source: SigLIP (arXiv 2303.15343), algorithm 1 and section 3.3, "efficient chunked implementation".
    """
    scale, bias = (
        torch.as_tensor(value, dtype=image_embeddings.dtype, device=image_embeddings.device)
        for value in (logit_scale, logit_bias)
    )
    return _RingSigmoid.apply(image_embeddings, text_embeddings, scale, bias, chunk)


def distillation_loss(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    logit_scale: Tensor | float,
    teacher_images: Tensor,
    teacher_texts: Tensor,
    teacher_scale: Tensor | float,
) -> Tensor:
    """Cross entropy between the softmax of a teacher over the global batch and that of the model.

    Args:
        image_embeddings, text_embeddings: (B, D) of the model.
        logit_scale: its factor, not its logarithm.
        teacher_images, teacher_texts: (B, E) of the teacher.
        teacher_scale: its factor.

    Source: open_clip ``DistillClipLoss``.
    """
    with torch.no_grad():
        right_texts = (teacher_scale * teacher_images @ gather_with_grad(teacher_texts).mT).softmax(dim=1)
        right_images = (teacher_scale * teacher_texts @ gather_with_grad(teacher_images).mT).softmax(dim=1)
    image_logits = logit_scale * image_embeddings @ gather_with_grad(text_embeddings).mT  # (B, P * B)
    text_logits = logit_scale * text_embeddings @ gather_with_grad(image_embeddings).mT
    return (F.cross_entropy(image_logits, right_texts) + F.cross_entropy(text_logits, right_images)) / 2


def multi_label_loss(
    image_embeddings: Tensor,
    prompt_embeddings: Tensor,
    logit_scale: Tensor | float,
    form: Literal['mean', 'sum'] = 'mean',
    phrases: Tensor | None = None,
) -> Tensor:
    """Contrast each image with several prompts made from its caption, over the global batch.

    Patches (B, N, D) instead of an image embedding are pooled by the log-sum-exp of their scaled similarities
    with a prompt, a soft maximum over patches.

    Args:
        image_embeddings: (B, D), or (B, N, D) patches.
        prompt_embeddings: (B, M, D).
        logit_scale: the factor, not its logarithm.
        form: over the M prompts of an image, 'mean' of log p (GroupViT's code), or the logarithm of the 'sum'
            of p (its paper, equation 7).
        phrases: (B, M) int64 ids, equal for equal prompts.  A phrase of several captions in the batch is then
            a positive for all of them; without it, only for its own image (as released).

    Source: GroupViT (arXiv 2202.11094), section 3.3; NVlabs/GroupViT models/multi_label_contrastive.py.
    """
    if form not in ('mean', 'sum'):
        raise ValueError(f"form must be 'mean' or 'sum', got {form!r}")
    batch, prompts = prompt_embeddings.shape[:2]
    texts = prompt_embeddings.flatten(0, 1)  # (B * M, D)
    to_texts = _logits(image_embeddings, gather_with_grad(texts), logit_scale)  # (B, P * B * M)
    to_images = _logits(gather_with_grad(image_embeddings), texts, logit_scale).mT  # (B * M, P * B)
    if phrases is None:
        phrases = torch.arange(batch * prompts, device=texts.device).view(batch, prompts)
        phrases = phrases + rank() * batch * prompts
    everyone = gather_with_grad(phrases)  # (P * B, M)
    mine = (phrases[:, :, None] == everyone.flatten()).any(dim=1)  # (B, P * B * M)
    theirs = (phrases.flatten()[:, None, None] == everyone).any(dim=-1)  # (B * M, P * B)
    return (_right_answers(to_texts, mine, form) + _right_answers(to_images, theirs, form)) / 2


def text_numbers(token_ids: Tensor) -> Tensor:
    """(..., L) token ids -> (...) int64, equal for equal texts, different otherwise (up to 2 ** -60)."""
    places = torch.arange(1, token_ids.shape[-1] + 1, device=token_ids.device)
    factors = (places * 0x9E3779B97F4A7C1 + 0x2545F4914F6CDD1) | 1  # int64 wraps around
    mixed = (token_ids + 1) * factors
    return (mixed ^ (mixed >> 29)).sum(dim=-1)


class _RingSigmoid(torch.autograd.Function):
    """The sigmoid loss with its gradient, which is computed beside it, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, chunk: int) -> Tensor:
        batch, processes = len(images), world_size()
        exact = torch.promote_types(images.dtype, torch.float32)  # for sums, also under autocast
        total = images.new_zeros((), dtype=exact)
        to_images, to_texts = torch.zeros_like(images), torch.zeros_like(texts)
        to_scale, to_bias = torch.zeros_like(scale), torch.zeros_like(bias)
        for step in range(processes):
            receive = start_shift(texts) if step + 1 < processes else None
            for start in range(0, len(texts), chunk):
                part = texts[start : start + chunk]  # (T, D)
                cosines = (images @ part.mT).to(exact)  # (B, T)
                logits = torch.addcmul(bias, scale, cosines)
                total += F.softplus(logits, threshold=50).sum()  # -log(sigmoid(-logit)): no pair matches ...
                slopes = logits.sigmoid()  # of the loss, in the logits
                if step == 0:  # ... but those of this process on the diagonal: -log(sigmoid(logit))
                    total -= logits.diagonal(-start).sum()
                    slopes.diagonal(-start).sub_(1)
                to_scale += (slopes * cosines).sum()
                to_bias += slopes.sum()
                to_images += slopes.to(images.dtype) @ part
                to_texts[start : start + chunk] += slopes.to(images.dtype).mT @ images
            if processes > 1:
                to_texts = start_shift(to_texts)()
            texts = receive() if receive else texts
        ctx.save_for_backward(
            *(gradient / batch for gradient in (to_images * scale, to_texts * scale, to_scale, to_bias))
        )
        return total / batch

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*(gradient * saved for saved in ctx.saved_tensors), None)


def _logits(images: Tensor, texts: Tensor, logit_scale: Tensor | float) -> Tensor:
    """(B, D) or (B, N, D), (T, D) -> (B, T)."""
    logits = logit_scale * images @ texts.mT
    return logits if images.ndim == 2 else logits.logsumexp(dim=1)


def _right_answers(logits: Tensor, right: Tensor, form: str) -> Tensor:
    """Mean loss over rows of (R, T) logits with several positives per row."""
    log_p = logits.log_softmax(dim=-1)
    if form == 'sum':
        return -log_p.masked_fill(~right, -torch.inf).logsumexp(dim=-1).mean()
    return -(log_p.masked_fill(~right, 0).sum(dim=-1) / right.sum(dim=-1)).mean()
