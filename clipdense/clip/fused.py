"""Inference with batch norms folded into the convolutions before them.

Predictors open ``fused_inference``; in it, a network of timm is computed by a copy with fewer layers.  The
network itself, its parameters and its state dict stay as they are, and so does everything outside of the
context: training, gradients, saving, conversion and export.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

_SIDE = 64  # pixels of the image on which a copy is compared with its network
_TOLERANCE = 1e-4  # of the largest feature of that image; fp32 rounding gives 1e-6

_enabled: ContextVar[bool] = ContextVar('fused_inference', default=False)  # of this thread only


@contextmanager
def fused_inference() -> Iterator[None]:
    """In this context and thread, ``computed_by`` may answer with a fused copy."""
    token = _enabled.set(True)
    try:
        yield
    finally:
        _enabled.reset(token)


def computed_by(network: Any) -> Any:
    """The network, or in ``fused_inference`` a copy that gives the same features with fewer layers.

    A copy is made at the first call, and again after the network has changed: tensors that were replaced or
    written to, layers that were replaced.  (A write through ``.data`` to single numbers of a filter is the
    one change that is not noticed.)  It has tensors of its own for convolutions, and shares all others.

    The network itself is used where gradients are on, in training mode, under autocast, in other types than
    fp32, off the CPU, with hooks, parametrizations or replaced ``forward`` methods, and if its copy gives
    other features.
    """
    if not _enabled.get() or torch.is_grad_enabled() or torch.is_autocast_enabled('cpu'):
        return network
    layers = list(network.modules())
    if not all(map(_plain, layers)) or not any(isinstance(layer, nn.BatchNorm2d) for layer in layers):
        return network
    tensors = [
        tensor
        for layer in layers
        for tensor in (*layer._parameters.values(), *layer._buffers.values())
        if tensor is not None
    ]
    if not all(map(_plain_tensor, tensors)):
        return network
    known = _copies.get(network)
    if known is None or not known.is_of(layers, tensors):
        known = _copies[network] = _Copy.of(network, layers, tensors)
    return network if known.network is None else known.network


def forget(network: nn.Module) -> None:
    """Drop the copy of a network, and the memory that it takes."""
    _copies.pop(network, None)


@dataclass(frozen=True)
class _Copy:
    """A fused copy, and what its network was when it was made.

    Args:
        network: the copy; None if it does not give the same features.
        layers: of the original, without itself.
        tensors: parameters and buffers of the original.
        versions: counts of writes to each tensor, and addresses.
        samples: one number of each filter, as views of the memory of the tensors.
        values: these numbers.
    """

    network: nn.Module | None
    layers: list[nn.Module]
    tensors: list[Tensor]
    versions: list[tuple[int, int]]
    samples: list[np.ndarray]
    values: np.ndarray

    @classmethod
    def of(cls, network: Any, layers: list[nn.Module], tensors: list[Tensor]) -> _Copy:
        """Make the copy of a network."""
        samples = [_sample(tensor) for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
        values = np.concatenate(samples)
        return cls(_checked_copy(network), layers[1:], tensors, _versions(tensors), samples, values)

    def is_of(self, layers: list[nn.Module], tensors: list[Tensor]) -> bool:
        """Whether a network still has these layers and the content of these tensors."""
        return (
            _same(self.layers, layers[1:])
            and _same(self.tensors, tensors)
            and self.versions == _versions(tensors)
            and np.array_equal(self.values, np.concatenate(self.samples), equal_nan=True)
        )


_copies: WeakKeyDictionary[nn.Module, _Copy] = WeakKeyDictionary()  # outside of modules, pickles and copies


def _plain(layer: nn.Module) -> bool:
    """Whether a layer does what its class does, in evaluation mode."""
    altered = layer._forward_hooks or layer._forward_pre_hooks or 'forward' in layer.__dict__
    return not layer.training and not altered and 'parametrizations' not in layer._modules


def _plain_tensor(tensor: Tensor) -> bool:
    """Whether it is an ordinary tensor on the CPU: fp32, or a counter."""
    return (
        type(tensor) in (nn.Parameter, Tensor)
        and tensor.is_cpu
        and (tensor.dtype == torch.float32 or not tensor.is_floating_point())
        and not tensor.is_inference()
    )


def _sample(tensor: Tensor) -> np.ndarray:
    """The first number of each filter, row or entry."""
    array: np.ndarray = tensor.detach().numpy()
    while array.ndim > 1:
        array = array[..., 0]  # a view, in any layout of memory
    return array.reshape(-1)


def _versions(tensors: list[Tensor]) -> list[tuple[int, int]]:
    return [(tensor._version, tensor.data_ptr()) for tensor in tensors]


def _same(known: list[Any], found: list[Any]) -> bool:
    return len(known) == len(found) and all(one is other for one, other in zip(known, found, strict=True))


def _checked_copy(network: Any) -> nn.Module | None:
    """The fused copy; None if the network cannot be fused, or gives other features then."""
    image = torch.randn(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    try:
        expected = network.forward_features(image)
        copy = _fused(network, image)
        found = copy.forward_features(image)
    except Exception:  # of whatever kind: a network for images of one size, or with layers of its own
        return None
    if found.shape != expected.shape or not expected.isfinite().all():
        return None
    if not (found - expected).abs().max() <= _TOLERANCE * expected.abs().max():
        return None
    _share(network, copy)
    return copy


def _fused(network: Any, image: Tensor) -> Any:
    """A copy with branches merged as timm does, and with batch norms folded into convolutions."""
    from timm.models import reparameterize_model

    copy = reparameterize_model(deepcopy(network), inplace=True)
    activations: dict[nn.Module, nn.Module] = {}
    for convolution, norm in _pairs(copy, image):
        weight, bias = _folded(convolution, norm)
        convolution.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), False)
        convolution.bias = nn.Parameter(bias, False)
        activations[norm] = getattr(norm, 'act', nn.Identity())
    for parent in list(copy.modules()):
        for name, child in parent.named_children():
            if child in activations:
                setattr(parent, name, activations[child])
    return copy.eval()


def _folded(convolution: nn.Conv2d, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution and its batch norm together, computed in fp64."""
    given = (convolution.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    bias, mean, variance, scale, shift = (None if one is None else one.double() for one in given)
    weight = convolution.weight.double()
    folded = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, scale, shift)  # type: ignore[arg-type]
    return folded[0].detach().float(), folded[1].detach().float()


def _pairs(network: Any, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions whose output is the input of a batch norm, both called once."""
    from timm.layers import BatchNormAct2d, Conv2dSame

    outputs: list[tuple[nn.Conv2d, Tensor]] = []
    inputs: list[tuple[nn.BatchNorm2d, Tensor]] = []
    handles = []
    for layer in network.modules():
        if type(layer) in (nn.Conv2d, Conv2dSame):
            hook = layer.register_forward_hook(lambda own, _, output: outputs.append((own, output)))
        elif type(layer) in (nn.BatchNorm2d, BatchNormAct2d) and layer.running_mean is not None:
            hook = layer.register_forward_pre_hook(lambda own, given: inputs.append((own, given[0])))
        else:
            continue
        handles.append(hook)
    network.forward_features(image)
    for handle in handles:
        handle.remove()
    calls = [id(layer) for layer, _ in (*outputs, *inputs)]
    return [
        (convolution, norm)
        for norm, given in inputs
        for convolution, output in outputs
        if output is given and calls.count(id(convolution)) == calls.count(id(norm)) == 1
    ]


def _share(network: nn.Module, copy: nn.Module) -> None:
    """Let the copy use the tensors of the network where they are equal."""
    own = dict(network.named_parameters())
    for prefix, layer in copy.named_modules():
        for name, parameter in layer._parameters.items():
            known = own.get(f'{prefix}.{name}' if prefix else name)
            if parameter is not None and known is not None and torch.equal(known, parameter):
                layer._parameters[name] = known
