"""mmdet without compiled mmcv: torchvision operations replace ``mmcv._ext``.

``install()`` comes before the first import of mmdet; the packages that use mmdet call it in their
``__init__``.  Where mmcv brings its compiled module, nothing changes.

N: boxes or regions, B: images, C: channels, K: classes, (h, w): map.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torchvision.ops
from torch import Tensor
from torch.nn import functional as F

from .utils.errors import MissingPackage

_NAME = 'mmcv._ext'
_TINY = torch.finfo(torch.float32).tiny
_NEEDED = 'detection needs mmdet and mmcv; run pip install mmdet==3.3.0 mmcv-lite==2.1.0'


def install() -> bool:
    """Install a replacement of ``mmcv._ext`` if mmcv is not compiled.

    Returns:
        True where the stand-in is in use, False where mmcv is compiled.

    Raises:
        MissingPackage: mmcv or mmdet is not installed.
    """
    if _NAME in sys.modules:
        return isinstance(sys.modules[_NAME], StandIn)
    mmcv = find_spec('mmcv')
    if mmcv is None or find_spec('mmdet') is None:
        raise MissingPackage(_NEEDED)
    if PathFinder.find_spec(_NAME, mmcv.submodule_search_locations) is not None:
        return False
    sys.modules[_NAME] = StandIn()
    return True


class StandIn(ModuleType):
    """A module with all names; operations that torchvision does not have raise an error when called."""

    def __init__(self) -> None:
        super().__init__(_NAME, 'torchvision in the place of mmcv._ext')
        self.__spec__ = ModuleSpec(_NAME, None)  # for MMEngine, which looks for a loader

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith('__'):
            raise AttributeError(name)
        return _OPERATIONS.get(name) or _refusal(name)


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            f'mmcv operation {name!r} needs a compiled mmcv; this mmcv has none, and of its operations '
            f'only {", ".join(sorted(_OPERATIONS))} are available through torchvision'
        )

    refuse.__name__ = name
    return refuse


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """(N, 4), (N,) -> indices of the remaining boxes, best first.

    Args:
        boxes: x1, y1, x2, y2.
        scores: of the boxes.
        iou_threshold: boxes with a higher IoU with a better one are removed.
        offset: 1 where x2 and y2 are the last pixels inside, 0 where they are the border.
    """
    if offset:
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    return torchvision.ops.nms(boxes, scores, iou_threshold)


def roi_align_forward(
    features: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """(B, C, h, w), (N, 5) -> ``output`` (N, C, aligned_height, aligned_width)."""
    _only_average(pool_mode)
    size = (aligned_height, aligned_width)
    output.copy_(
        torch.ops.torchvision.roi_align(features, rois, spatial_scale, *size, sampling_ratio, aligned)
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient of the features, into ``grad_input`` (B, C, h, w)."""
    _only_average(pool_mode)
    shape = (aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned)
    grad_input.copy_(
        torch.ops.torchvision._roi_align_backward(grad_output, rois, spatial_scale, *shape),
    )


def sigmoid_focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """(N, K) logits, (N,) classes with K for the background -> ``output`` (N, K)."""
    output.copy_(_focal_terms(logits, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The gradient of the sum of the losses, into ``grad_input`` (N, K)."""
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        total = _focal_terms(leaf, target, weight, gamma, alpha).sum()
    grad_input.copy_(torch.autograd.grad(total, leaf)[0])


def _focal_terms(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    """Lin et al., arXiv 1708.02002, equation 5, for each class by itself."""
    probability = logits.sigmoid()
    hit = target[:, None] == torch.arange(logits.shape[1], device=logits.device)  # (N, K)
    miss = 1 - probability
    loss = torch.where(
        hit,
        -alpha * miss**gamma * probability.clamp(min=_TINY).log(),
        -(1 - alpha) * probability**gamma * miss.clamp(min=_TINY).log(),
    )
    return loss * weight[target][:, None] if weight.numel() else loss


def deform_conv_forward(
    features: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *buffers: Tensor, **layout: int
) -> None:
    """Deformable convolution without modulation, into ``output``."""
    output.copy_(_deform(features, weight, offset, None, None, _first_layout(layout)))


def deform_conv_backward_input(
    features: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    *buffers: Tensor,
    **layout: int,
) -> None:
    """Gradients of the features and the offsets."""
    found = _deform_gradients(grad_output, features, weight, offset, None, None, _first_layout(layout))
    grad_input.copy_(found[0])
    grad_offset.copy_(found[2])


def deform_conv_backward_parameters(
    features: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    *buffers: Tensor,
    scale: float = 1,
    **layout: int,
) -> None:
    """The gradient of the weight, times ``scale``."""
    found = _deform_gradients(grad_output, features, grad_weight, offset, None, None, _first_layout(layout))
    grad_weight.copy_(found[1] * scale)


def modulated_deform_conv_forward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    **layout: int,
) -> None:
    """Modulated deformable convolution, into ``output``.

    Offsets and mask may be of a larger map than the output, as in mmdet's DyHead: the compiled kernel reads
    the numbers of an image in memory order, as if the map had the size of the output.
    """
    size = output.shape[-2:]
    output.copy_(
        _deform(features, weight, _cut(offset, size), _cut(mask, size), bias, _second_layout(layout))
    )


def modulated_deform_conv_backward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    *gradients: Tensor,
    **layout: int,
) -> None:
    """Gradients of features, weight, bias, offset and mask, into the five tensors that follow ``columns``."""
    grad_input, grad_weight, grad_bias, grad_offset, grad_mask, grad_output = gradients
    size = grad_output.shape[-2:]
    read = _cut(offset, size), _cut(mask, size)
    found = _deform_gradients(grad_output, features, weight, *read, bias, _second_layout(layout))
    grad_input.copy_(found[0])
    grad_weight.copy_(found[1])
    for whole, part in ((grad_offset, found[2]), (grad_mask, found[3])):  # 0 for numbers that were not read
        part = part.flatten(1)  # (B, numbers that were read)
        whole.copy_(F.pad(part, (0, whole[0].numel() - part.shape[1])).view_as(whole))
    if grad_bias.numel():
        grad_bias.copy_(found[4])


def _cut(values: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), from the first numbers of each image; smaller maps stay as they are."""
    channels, wanted = values.shape[1], size[0] * size[1]
    if values.shape[-2:] == tuple(size) or values.shape[-2] * values.shape[-1] < wanted:
        return values
    return values.flatten(1)[:, : channels * wanted].reshape(-1, channels, *size)


def _first_layout(given: dict[str, int]) -> tuple[int, ...]:
    """Stride, padding, dilation, groups and offset groups, as torchvision orders them."""
    names = ('dH', 'dW', 'padH', 'padW', 'dilationH', 'dilationW', 'group', 'deformable_group')
    return tuple(given[name] for name in names)


def _second_layout(given: dict[str, int]) -> tuple[int, ...]:
    names = ('stride_h', 'stride_w', 'pad_h', 'pad_w', 'dilation_h', 'dilation_w')
    return tuple(given[name] for name in (*names, 'group', 'deformable_group'))


def _deform(
    features: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    layout: tuple[int, ...],
) -> Tensor:
    mask_or_none, bias_or_zero = _optional(features, weight, mask, bias)
    return torch.ops.torchvision.deform_conv2d(
        features, weight, offset, mask_or_none, bias_or_zero, *layout, mask is not None
    )


def _deform_gradients(
    grad_output: Tensor,
    features: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    layout: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Of features, weight, offset, mask and bias."""
    mask_or_none, bias_or_zero = _optional(features, weight, mask, bias)
    return torch.ops.torchvision._deform_conv2d_backward(
        grad_output, features, weight, offset, mask_or_none, bias_or_zero, *layout, mask is not None
    )


def _optional(
    features: Tensor, weight: Tensor, mask: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Empty tensors for absent arguments, as torchvision requires."""
    none = features.new_zeros(features.shape[0], 1) if mask is None else mask
    return none, bias if bias is not None and bias.numel() else weight.new_zeros(weight.shape[0])


def _only_average(pool_mode: int) -> None:
    if pool_mode != 1:
        raise NotImplementedError("mmcv operation 'roi_align' with pool_mode='max' needs a compiled mmcv")


_OPERATIONS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        nms,
        roi_align_forward,
        roi_align_backward,
        sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward,
        deform_conv_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        modulated_deform_conv_forward,
        modulated_deform_conv_backward,
    )
}
