"""Which range the numbers of an image have: arrays, tensors, and files of more than 8 bits.  (H, W): pixels.

Arrays and tensors:

* bool: False is black and True is white.
* uint8: unchanged.
* Other integers: values of 0 to 255 are unchanged; others raise an error.
* uint16: 16 bits, so 65535 is white; an array of at most 255 may as well have 8 bits and raises an error.
* Floats: 0 to 1 if the largest is at most 1, 0 to 255 if it is above 16; everything else raises an error, as
  do NaN and infinite values.

An array of floats from 0 to 255 of which none is above 1 (an almost black image) cannot be distinguished from
one of 0 to 1.  Values of uint8 and the other integers that are all 0 or 1 are kept, with a warning.

Files and Pillow images of mode I;16, I and F cannot be changed as easily as arrays, so they are read by one
rule with a warning where it may be wrong: integers have 16 bits, floats are 0 to 1, 0 to 255 or 0 to 65535
depending on the maximum, and other numbers are scaled from their minimum to their maximum.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .errors import InputError

_DARK_FLOAT = 16  # largest float that is more likely an excess over 1 than a dark image of 0 to 255
_FULL_16_BIT = 4096  # 16-bit images without larger values often come from cameras of 10 or 12 bits
_ROUNDING = 0.5  # excess in steps of 8 bits that is cut off: what interpolation and arithmetic leave
_BLOCK = 1 << 22  # numbers that are converted at a time
_WAYS = 'convert the array to uint8 (0 to 255), or scale it to floats of 0 to 1'


def array_to_8_bit(array: np.ndarray) -> np.ndarray:
    """An image array (H, W, 1 | 3 | 4) or (H, W) of any numbers as uint8, by the rules of this module.

    Raises:
        InputError: another shape or dtype, or values whose range is not certain.
    """
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise InputError(
            f'an image array must have shape (H, W) or (H, W, 1 | 3 | 4), got {array.shape}'
            f'{_shape_hint(array.shape)}'
        )
    if isinstance(array, np.ma.MaskedArray):
        if np.ma.is_masked(array):
            raise InputError(
                'an image array must not have masked values: replace them, as in array.filled(0)'
            )
        array = array.data
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[1] > 4:
        warnings.warn(
            f'the array of shape {array.shape} is read as an image of 3 rows, with channels last; '
            'if channels come first, pass array.transpose(1, 2, 0)',
            stacklevel=2,
        )
    if array.dtype.kind == 'b':
        return np.asarray(array).astype(np.uint8) * 255
    if array.dtype.kind in 'iu':
        return _integers(np.asarray(array))
    if array.dtype.kind == 'f':
        return _floats(np.asarray(array))
    raise InputError(f'an image array must contain numbers, got dtype {array.dtype}')


def tensor_to_array(tensor: Any) -> np.ndarray:
    """An image tensor (1 | 3 | 4, H, W) or (H, W) as an array with channels last.

    Raises:
        InputError: another shape, or a tensor without values of its own (sparse, meta).
    """
    shape = tuple(tensor.shape)
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3, 4)) or 0 in shape:
        raise InputError(
            f'an image tensor must have shape (1 | 3 | 4, H, W) or (H, W), got {shape}{_shape_hint(shape)}'
        )
    if len(shape) == 3 and shape[2] == 3 and shape[1] > 4:
        warnings.warn(
            f'the tensor of shape {shape} is read as an image 3 pixels wide, with channels first; '
            'if channels come last, pass tensor.permute(2, 0, 1)',
            stacklevel=2,
        )
    try:
        tensor = tensor.detach().cpu()
        array = (tensor.float() if tensor.dtype.is_floating_point else tensor).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise InputError(
            f'an image tensor must be a dense tensor of numbers, got {tensor.dtype} ({tensor.layout}, '
            f'{tensor.device})'
        ) from error
    return array.transpose(1, 2, 0) if array.ndim == 3 else array


def stored_to_8_bit(values: np.ndarray, name: str) -> np.ndarray:
    """Values (H, W) of a Pillow image of mode I;16, I or F as uint8, with a warning where the rule is unsure.

    Args:
        values: of any range.
        name: of the image, for warnings.
    """
    floating = values.dtype.kind == 'f'
    if floating and not np.isfinite(values).all():
        count = int((~np.isfinite(values)).sum())
        _assumed(f'{name} has {count} values that are NaN or infinite; they are read as 0')
        values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65535:
        _assumed(f'the values of {name} are from {low:g} to {high:g}; they are scaled to 0 to 255')
        return _scaled(values, low, 255 / max(high - low, 1e-12))
    if floating and high <= 255:
        if 1 < high <= _DARK_FLOAT:
            _assumed(f'the largest value of {name} is {high:g}; it is read as 0 to 255, almost black')
        return _scaled(values, 0.0, 255.0 if high <= 1 else 1.0)
    if floating or 0 < high < _FULL_16_BIT:
        _assumed(f'the largest value of {name} is {high:g}; it is read as 16 bits, of which 65535 is white')
    return _scaled(values, 0.0, 1 / 257)


def _integers(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if high == 1 and low >= 0:
        _assumed(
            'the integers of an image array are all 0 or 1; they are read as 0 to 255, which is almost black '
            '(pass array != 0 for black and white)'
        )
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return _sixteen_bits(values, high)
    if low < 0 or high > 255:
        raise InputError(
            f'an image array of {values.dtype} must have values of 0 to 255, got {low} to {high}: {_WAYS}'
        )
    return values.astype(np.uint8)


def _sixteen_bits(values: np.ndarray, high: int) -> np.ndarray:
    if 0 < high <= 255:
        raise InputError(
            f'an image array of uint16 has no value above {high}, so it may have 8 bits or be a dark image '
            f'of 16 bits: {_WAYS}'
        )
    if 0 < high < _FULL_16_BIT:
        _assumed(
            f'the largest value of a uint16 array is {high}; it is read as 16 bits, of which 65535 is white '
            '(scale images of 10 or 12 bits to floats of 0 to 1)'
        )
    return _scaled(values, 0.0, 1 / 257)


def _floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        count = int((~np.isfinite(values)).sum())
        raise InputError(
            f'an image array must be finite, but {count} of {values.size} values are NaN or infinite: '
            'replace them, as in numpy.nan_to_num'
        )
    scale = 255.0 if high * 255 <= 255 + _ROUNDING else 1.0
    if low * scale < -_ROUNDING or high * scale > 255 + _ROUNDING:
        hint = ' Undo the normalization (x * std + mean) first.' if low < 0 else ''
        raise InputError(
            f'an image array of floats must be 0 to 1 or 0 to 255, got {low:g} to {high:g}: {_WAYS}.{hint}'
        )
    if scale == 1 and high <= _DARK_FLOAT:
        raise InputError(
            f'the largest value of an image array of floats is {high:g}: too large for 0 to 1 and improbable '
            f'for 0 to 255: {_WAYS}'
        )
    return _scaled(values, 0.0, scale)


def _scaled(values: np.ndarray, offset: float, scale: float) -> np.ndarray:
    """(values - offset) * scale, rounded, in blocks of rows."""
    result = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, values[0].size))
    for top in range(0, len(values), rows):
        part = (values[top : top + rows] - offset) * scale + 0.5
        result[top : top + rows] = part.clip(0, 255).astype(np.uint8)
    return result


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return ': pass a list of images, as in list(batch)'
    if len(shape) == 3 and 0 not in shape:
        if shape[0] in (1, 3, 4):
            return ' (channels come last): pass array.transpose(1, 2, 0)'
        if shape[2] in (1, 3, 4):
            return ' (channels come first): pass tensor.permute(2, 0, 1)'
    return ''


def _assumed(text: str) -> None:
    warnings.warn(text, stacklevel=2)
