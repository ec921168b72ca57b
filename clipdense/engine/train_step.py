"""Training steps with large batches: gradient caching over micro-batches, and several processes.

B: pairs in this process, b: pairs of a micro-batch, D: joint space, P: processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor

from .parallel import run_pass
from .resume import set_random_state, torch_random_state

Batch = TypeVar('Batch')
Losses = TypeVar('Losses', Tensor, dict[str, Tensor])


def cached_step(
    encode: Callable[[Batch], tuple[Tensor, ...]],
    loss: Callable[..., Losses],
    batches: Sequence[Batch],
    backward: Callable[[Tensor], Any] = torch.Tensor.backward,
    model: Any = None,
) -> Losses:
    """Exact gradient of a large batch with the memory of a micro-batch.

    Embeddings of all micro-batches are computed without a graph; the loss of the batch is differentiated
    once, which gives the gradient of each embedding and of the parameters of the loss
    (logit_scale, logit_bias); then each micro-batch is encoded again, with the same random state, and
    its gradients are propagated.  The last micro-batch keeps its graph from the start.  A single one is a
    plain step.  Batch norm in training mode sees micro-batches, all but the last twice.

    Call it inside the optimizer's context (autocast), and step the optimizer afterwards::

        with optim_wrapper.optim_context(self):
            parts = split_batch(data, 4)
            losses = cached_step(self.encode, self.loss, parts, optim_wrapper.backward, self)
        optim_wrapper.step()
        optim_wrapper.zero_grad()

    Args:
        encode: micro-batch -> embeddings, such as ((b, D), (b, D)); draws from torch's generators only.
        loss: embeddings of the whole batch, ((B, D), (B, D)) -> a scalar, or a dict of scalars of which those
            with 'loss' in their name are summed.  Gathers from other processes by itself.
        batches: the micro-batches, of any sizes.
        backward: differentiates the scalar; ``optim_wrapper.backward`` where losses are scaled.
        model: in several processes, the model, whose gradients are averaged in the last backward pass.

    Returns:
        What ``loss`` returned, without its graph.

    Source: GradCache (arXiv 2101.06983), section 3; BASIC (arXiv 2111.10050), section 4.
    """
    run = partial(run_pass, model)
    *early, last = batches
    if not early:
        losses = run(lambda: loss(*encode(last)))
        backward(_total(losses))
        return _detached(losses)
    states: list[dict[str, Tensor]] = []
    cached: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for batch in early:
            states.append(torch_random_state())
            cached.append(run(encode, batch, sync=False))
    torch.clear_autocast_cache()  # older torch reuses casts that have no graph (pytorch 112583, 158232)
    kept = run(encode, last, sync=False)
    end = torch_random_state()
    encoders_learn = any(part.requires_grad for part in kept)

    parts = [*cached, tuple(part.detach() for part in kept)]
    whole = [torch.cat(column).requires_grad_() for column in zip(*parts, strict=True)]  # (B, D) each
    losses = run(loss, *whole, sync=not encoders_learn)
    backward(_total(losses))

    sizes = [[len(part) for part in column] for column in zip(*parts, strict=True)]
    gradients = [_gradient(leaf).split(size) for leaf, size in zip(whole, sizes, strict=True)]
    *early_gradients, last_gradient = zip(*gradients, strict=True)
    _pass_on(kept, last_gradient)
    del kept
    again = list(zip(early, states, early_gradients, strict=True)) if encoders_learn else []
    for place, (batch, state, gradient) in enumerate(again, 1):
        set_random_state(state)
        _pass_on(run(encode, batch, sync=place == len(again)), gradient)
    set_random_state(end)
    return _detached(losses)


def pretrain_step(
    model: Any,
    data: Mapping[str, Any],
    encode: Callable[[Any], tuple[Tensor, ...]],
    loss: Callable[..., Losses],
    optim_wrapper: Any,
) -> Losses:
    """Apply ``cached_step`` to the micro-batches of a preprocessed batch, and step the optimizer.

    Args:
        model: has ``micro_batch``, pairs that go through the towers together (None: all at once), and a
            ``clip`` whose ``clamp_logit_scale`` is called after the step.
        data: the batch, with ``images``.
        encode, loss: see ``cached_step``.
        optim_wrapper: MMEngine's.

    Returns:
        What ``loss`` returned, without its graph.
    """
    parts = split_batch(data, model.micro_batch or len(data['images']))
    with optim_wrapper.optim_context(model):
        losses = cached_step(encode, loss, parts, optim_wrapper.backward, model)
    optim_wrapper.step()
    optim_wrapper.zero_grad()
    model.clip.clamp_logit_scale()
    return losses


def as_batch(**tensors: Tensor | None) -> dict[str, Tensor]:
    """A batch of the given tensors, without entries that are None."""
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def split_batch(data: Mapping[str, Any], size: int) -> list[dict[str, Any]]:
    """Split a batch of equally long tensors and lists into micro-batches of similar length, at most ``size``.

    Micro-batches of one sample, which batch norm does not support, occur for ``size`` <= 2 only.
    """
    lengths = {len(value) for value in data.values()}
    if len(lengths) != 1:
        raise ValueError(f'entries of a batch must be equally long, got {sorted(lengths)}')
    length = lengths.pop()
    count = -(-length // size)
    bounds = [length * part // count for part in range(count + 1)]
    return [{key: value[start:end] for key, value in data.items()} for start, end in pairwise(bounds)]


def _detached(losses: Losses) -> Losses:
    return {k: v.detach() for k, v in losses.items()} if isinstance(losses, dict) else losses.detach()


def _total(losses: Tensor | dict[str, Tensor]) -> Tensor:
    if isinstance(losses, dict):
        return torch.stack([value for name, value in losses.items() if 'loss' in name]).sum()
    return losses


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _pass_on(embeddings: tuple[Tensor, ...], gradients: tuple[Tensor, ...]) -> None:
    """Backward from embeddings; those of a frozen tower have no graph."""
    trained = [pair for pair in zip(embeddings, gradients, strict=True) if pair[0].requires_grad]
    if trained:
        outputs, output_gradients = zip(*trained, strict=True)
        torch.autograd.backward(outputs, output_gradients)
