"""The deformable convolution without a GPU equals torchvision's kernel, with its gradients."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torchvision.ops import deform_conv2d

from clipdense.layers.deformable import deformable_conv

CHANNELS, OUTPUTS, TAPS = 6, 4, 9


def inputs(size: tuple[int, int], stride: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    out = [(side - 1) // stride + 1 for side in size]
    shapes = [
        (2, CHANNELS, *size),
        (2, 2 * TAPS, *out),
        (2, TAPS, *out),
        (OUTPUTS, CHANNELS, 3, 3),
        (OUTPUTS,),
    ]
    made = [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]
    return [one.requires_grad_() for one in made]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize(('size', 'stride'), [((7, 5), 1), ((7, 5), 2), ((8, 6), 2), ((1, 1), 1)])
def test_output_and_gradients_equal_the_kernel(size, stride, dtype):
    x, offset, strength, weight, bias = given = inputs(size, stride, dtype)
    found = deformable_conv(*given, stride)
    expected = deform_conv2d(x, offset, weight, bias, stride, padding=1, mask=strength)
    close = {'atol': 1e-5, 'rtol': 1e-5} if dtype == torch.float32 else {'atol': 1e-12, 'rtol': 1e-12}
    assert_close(found, expected, **close)
    gradient = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    pairs = zip(
        torch.autograd.grad(found, given, gradient),
        torch.autograd.grad(expected, given, gradient),
        strict=True,
    )
    for ours, theirs in pairs:
        assert_close(ours, theirs, atol=10 * close['atol'], rtol=10 * close['rtol'])


def test_taps_far_outside_read_zero():
    x, offset, strength, weight, bias = inputs((4, 4), 1, torch.float32)
    far = torch.full_like(offset, 100.0)
    found = deformable_conv(x, far, strength, weight, bias)
    assert_close(found, bias[None, :, None, None].expand_as(found))


def test_places_are_exact_under_autocast():
    given = [one.detach() for one in inputs((7, 5), 1, torch.float32)]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = deformable_conv(*given)
    assert_close(found, deformable_conv(*given))
