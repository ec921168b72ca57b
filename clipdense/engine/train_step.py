"""Training steps with large batches: gradient caching over micro-batches, and several processes.

B: pairs in this process, b: pairs of a micro-batch, D: joint space, P: processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, nn

from clipdense.utils.dist import world_size

from .resume import set_random_state, torch_random_state

Batch = TypeVar('Batch')
Losses = TypeVar('Losses', Tensor, dict[str, Tensor])
_BUCKET = 1 << 25  # bytes of one all-reduce


def cached_step(
    encode: Callable[[Batch], tuple[Tensor, ...]],
    loss: Callable[..., Losses],
    batches: Sequence[Batch],
    backward: Callable[[Tensor], Any] = torch.Tensor.backward,
) -> Losses:
    """Exact gradient of a large batch with the memory of a micro-batch.

    Embeddings of all micro-batches are computed without a graph; the loss of the batch is differentiated
    once, which gives the gradient of each embedding and of the parameters of the loss
    (logit_scale, logit_bias); then each micro-batch is encoded again, with the same random state, and
    its gradients are propagated.  The last micro-batch keeps its graph from the start, so that a single
    one costs no more than a plain step.  Batch norm in training mode sees micro-batches, all but the last
    twice.

    Call it inside the optimizer's context (autocast), and step the optimizer afterwards::

        with optim_wrapper.optim_context(self):
            losses = cached_step(self.encode, self.loss, split_batch(data, 4), optim_wrapper.backward)
        optim_wrapper.step()
        optim_wrapper.zero_grad()

    Args:
        encode: micro-batch -> embeddings, such as ((b, D), (b, D)); draws from torch's generators only.
        loss: embeddings of the whole batch, ((B, D), (B, D)) -> a scalar, or a dict of scalars of which those
            with 'loss' in their name are summed.  Gathers from other processes by itself.
        batches: the micro-batches, of any sizes.
        backward: differentiates the scalar; ``optim_wrapper.backward`` where losses are scaled.

    Returns:
        What ``loss`` returned, without its graph.

    Source: GradCache (arXiv 2101.06983), section 3; BASIC (arXiv 2111.10050), section 4.
    """
    *early, last = batches
    states: list[dict[str, Tensor]] = []
    cached: list[tuple[Tensor, ...]] = []
    with torch.no_grad():
        for batch in early:
            states.append(torch_random_state())
            cached.append(encode(batch))
    torch.clear_autocast_cache()  # older torch reuses casts that have no graph (pytorch 112583, 158232)
    kept = encode(last)
    end = torch_random_state()

    parts = [*cached, tuple(part.detach() for part in kept)]
    whole = [torch.cat(column).requires_grad_() for column in zip(*parts, strict=True)]  # (B, D) each
    losses = loss(*whole)
    backward(_total(losses))

    sizes = [[len(part) for part in column] for column in zip(*parts, strict=True)]
    gradients = [_gradient(leaf).split(size) for leaf, size in zip(whole, sizes, strict=True)]
    *early_gradients, last_gradient = zip(*gradients, strict=True)
    _pass_on(kept, last_gradient)
    del kept
    for batch, state, gradient in zip(early, states, early_gradients, strict=True):
        set_random_state(state)
        _pass_on(encode(batch), gradient)
    set_random_state(end)
    return {k: v.detach() for k, v in losses.items()} if isinstance(losses, dict) else losses.detach()


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
        losses = cached_step(encode, loss, parts, optim_wrapper.backward)
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


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the P processes; a no-op for one process.

    A parameter without gradient in all processes keeps None; if some have one, the others count as zero.  It
    is called after all backward passes of plain and cached steps, so the result is independent of the forward
    ran last.  Gradients are reduced in buckets while the next ones are packed.
    """
    if world_size() == 1:
        return
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not wanted:
        return
    used = torch.tensor([p.grad is not None for p in wanted], dtype=torch.uint8, device=wanted[0].device)
    dist.all_reduce(used, op=dist.ReduceOp.MAX)
    gradients = []
    for parameter, needed in zip(wanted, used.tolist(), strict=True):
        if needed:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    sent = [(bucket, *_send(bucket)) for bucket in _buckets(gradients)]
    for bucket, flat, work in sent:
        work.wait()
        flat /= world_size()
        for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(part.view_as(gradient))


@MODEL_WRAPPERS.register_module()
class DistributedModel(nn.Module):
    """Data-parallel wrapper: broadcasts the weights of process 0 and uses the model's own ``train_step``.

    MMEngine's wrapper calls ``forward`` itself and silently skips ``train_step`` of the model, cached
    accumulation included.  Here gradients are averaged by ``PrecisionOptimWrapper.step``; they do not
    overlap with the backward pass, which costs a few percent of a step but supports any ``train_step``.

    Args:
        module: the model, on its device.
    """

    module: Any

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        if world_size() > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model's method."""
        return self.module(*args, **kwargs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Call the model's method.

        Raises:
            TypeError: an optimizer wrapper that does not average gradients over processes.
        """
        if world_size() > 1 and not getattr(optim_wrapper, 'averages_gradients', False):
            raise TypeError(
                f'{type(optim_wrapper).__name__} does not average gradients over processes; '
                'use optim_wrapper=dict(type=PrecisionOptimWrapper, ...)'
            )
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: Any) -> list:
        """Call the model's method."""
        return self.module.val_step(data)

    def test_step(self, data: Any) -> list:
        """Call the model's method."""
        return self.module.test_step(data)


def unwrapped(model: nn.Module) -> Any:
    """The model inside ``DistributedModel`` or torch's wrappers, or the model itself."""
    return model.module if hasattr(model, 'module') else model


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


def _buckets(gradients: list[Tensor]) -> Iterable[list[Tensor]]:
    """Neighbors of one dtype and device, up to ``_BUCKET`` bytes together."""
    bucket: list[Tensor] = []
    for gradient in gradients:
        full = sum(other.nbytes for other in bucket) + gradient.nbytes > _BUCKET
        if bucket and (full or (gradient.dtype, gradient.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(gradient)
    if bucket:
        yield bucket


def _send(bucket: list[Tensor]) -> tuple[Tensor, Any]:
    flat = torch.cat([gradient.flatten() for gradient in bucket])
    return flat, dist.all_reduce(flat, async_op=True)
