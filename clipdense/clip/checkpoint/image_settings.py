"""Preprocessing of images from the files of Hugging Face and open_clip.

The results are fields of ``clip.preprocess.Preprocess``.  A setting that it does not have is refused by name.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdense.utils.errors import CheckpointError

from ..preprocess import STATISTICS, Triple
from .section import Section

_HINT = "pass preprocess='openai' (or 'imagenet', 'half', 'siglip', or a Preprocess) to replace the file"
_INTERPOLATIONS = {0: 'nearest', 2: 'bilinear', 3: 'bicubic'}  # Pillow's codes, as Hugging Face writes them
_OPEN_CLIP_INTERPOLATIONS = {
    'bicubic': 'bicubic',
    'bilinear': 'bilinear',
    'random': 'bicubic',
}  # at inference
_STEPS = ('do_resize', 'do_center_crop', 'do_rescale', 'do_normalize', 'do_convert_rgb')
_OTHER_SETTINGS = ('crop_pct', 'offset', 'rescale_offset')


@dataclass(frozen=True)
class _Processor:
    """Defaults of an image processor class of transformers, for settings that its file omits."""

    statistics: tuple[Triple, Triple]
    resample: int
    square: bool  # whether the default size is height and width, without a crop, not the shorter side
    square_integers: bool = False  # the same of a size that is one number
    size: int = 224


_CLIP = _Processor(STATISTICS['openai'], 3, square=False)
_SIGLIP = _Processor(STATISTICS['half'], 3, square=True)
_BLIP = _Processor(STATISTICS['openai'], 3, square=True, square_integers=True, size=384)
_PROCESSORS = {
    'CLIP': _CLIP,
    'Bit': _CLIP,
    'Blip': _BLIP,
    'Siglip': _SIGLIP,
    'ViT': _Processor(STATISTICS['half'], 2, square=True, square_integers=True),
}
_LARGE = 1e6  # of statistics and factors: larger ones overflow in the model
_FAMILIES = {'siglip': _SIGLIP, 'blip': _BLIP}  # of files that name no processor


def huggingface_images(folder: Path, family: str) -> dict[str, Any] | None:
    """Settings of ``processor_config.json`` (transformers 5), else ``preprocessor_config.json``.

    Args:
        folder: of the model.
        family: its ``model_type``, for files that do not name an image processor.

    Returns:
        The settings; None if the folder has neither file.

    Raises:
        CheckpointError: a damaged file, or a setting that is not supported.
    """
    found = []
    for name, key in (('processor_config.json', 'image_processor'), ('preprocessor_config.json', '')):
        if (folder / name).is_file():
            whole = Section.of_file(folder / name)
            if not key or key in whole:
                found.append(_huggingface(whole.part(key) if key else whole, family))
    if len(found) == 2 and found[0] != found[1]:
        warnings.warn(
            f'{folder}: preprocessor_config.json differs from processor_config.json, which is used '
            'as in transformers'
        )
    return found[0] if found else None


def open_clip_images(config: Section, image_size: int | None) -> dict[str, Any] | None:
    """Settings of ``preprocess_cfg`` of ``open_clip_config.json``, with the defaults of open_clip.

    Args:
        config: the entry, or an empty one.
        image_size: of the image tower; open_clip ignores the size of the entry.

    Raises:
        CheckpointError: a setting that is not supported.
    """
    if image_size is None:
        return None
    config.require(mode='RGB')
    interpolation = config.text('interpolation', 'bicubic')
    resize = config.text('resize_mode', 'shortest')
    if resize not in ('shortest', 'squash'):
        raise _unsupported(config, 'resize_mode', 'shortest, squash')
    if interpolation not in _OPEN_CLIP_INTERPOLATIONS:
        raise _unsupported(config, 'interpolation', ', '.join(_OPEN_CLIP_INTERPOLATIONS))
    size = config.get('size', image_size)
    if size not in (image_size, [image_size] * 2, (image_size,) * 2):
        warnings.warn(
            f'{config.source}: preprocess_cfg.size={size} differs from image_size={image_size} of the model, '
            'which is used as in open_clip'
        )
    return {
        'image_size': image_size,
        'mean': _mean(config, 'mean', STATISTICS['openai'][0]),
        'std': _std(config, 'std', STATISTICS['openai'][1]),
        'interpolation': _OPEN_CLIP_INTERPOLATIONS[interpolation],
        'resize': resize,
    }


def _huggingface(config: Section, family: str) -> dict[str, Any]:
    defaults = _processor(config, family)
    for key in config.values:
        other = key in _OTHER_SETTINGS or (key.startswith('do_') and key not in _STEPS)
        if other and config.get(key):
            raise _unsupported(config, key, f'{", ".join(_STEPS)}')
    config.require(do_resize=True)
    side, squash = _size(config, defaults)
    _check_crop(config, defaults, side, squash)
    code = config.get('resample', defaults.resample)
    if isinstance(code, bool) or not isinstance(code, int) or code not in _INTERPOLATIONS:
        names = ', '.join(f'{number} ({name})' for number, name in _INTERPOLATIONS.items())
        raise _unsupported(config, 'resample', names)
    mean, std = _statistics(config, defaults)
    return {
        'image_size': side,
        'mean': mean,
        'std': std,
        'interpolation': _INTERPOLATIONS[code],
        'resize': 'squash' if squash else 'shortest',
    }


def _processor(config: Section, family: str) -> _Processor:
    name = config.text('image_processor_type', config.text('feature_extractor_type'))
    if name is None:
        return _FAMILIES.get(family, _CLIP)
    short = name.removesuffix('Fast').removesuffix('Pil')
    short = short.removesuffix('ImageProcessor').removesuffix('FeatureExtractor')
    if short not in _PROCESSORS:
        known = ', '.join(f'{one}ImageProcessor' for one in _PROCESSORS)
        raise CheckpointError(
            f'{config.source}: unsupported image processor {name!r}; supported: {known}; {_HINT}'
        )
    return _PROCESSORS[short]


def _size(config: Section, defaults: _Processor) -> tuple[int, bool]:
    """The side of the images, and whether the aspect ratio is ignored."""
    if 'size' not in config:
        return defaults.size, defaults.square
    if not isinstance(config.get('size'), dict):
        return config.integer('size'), config.flag('default_to_square', defaults.square_integers)
    size = config.part('size')
    if 'longest_edge' in size or 'max_height' in size:
        raise _unsupported(config, 'size', 'shortest_edge, or height and width')
    if 'shortest_edge' in size:
        return size.integer('shortest_edge'), False
    return _square(config, 'size'), True


def _check_crop(config: Section, defaults: _Processor, side: int, squash: bool) -> None:
    """Refuse images that are not square, or cropped to another size than resized to."""
    if not config.flag('do_center_crop', not defaults.square):
        if not squash:
            raise CheckpointError(
                f'{config.source}: images are resized to a shorter side of {side} and not cropped '
                f'(do_center_crop=false): only square images are supported; {_HINT}'
            )
        return
    given = config.get('crop_size')
    if isinstance(given, dict):
        crop = _square(config, 'crop_size')
    else:
        crop = config.integer('crop_size', defaults.size)
    if crop != side:
        raise CheckpointError(
            f'{config.source}: resize to {side} and crop to {crop}; both must be the same size; {_HINT}'
        )


def _square(config: Section, key: str) -> int:
    size = config.part(key)
    height, width = size.integer('height'), size.integer('width')
    if height is None or height != width:
        raise _unsupported(config, key, 'equal height and width')
    return height


def _statistics(config: Section, defaults: _Processor) -> tuple[Triple, Triple]:
    """Mean and standard deviation of RGB in [0, 1], whatever range the file rescales to."""
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    if config.flag('do_normalize', True):
        mean = _mean(config, 'image_mean', defaults.statistics[0])
        std = _std(config, 'image_std', defaults.statistics[1])
    factor = config.number('rescale_factor', 1 / 255) if config.flag('do_rescale', True) else 1.0
    if not 1 / _LARGE <= factor <= _LARGE:
        raise config.error('rescale_factor', f'must be between {1 / _LARGE:g} and {_LARGE:g}')
    scale = 1 / (255 * factor)
    if abs(scale - 1) < 1e-6:
        return mean, std
    return _times(mean, scale), _times(std, scale)


def _times(values: Triple, scale: float) -> Triple:
    return values[0] * scale, values[1] * scale, values[2] * scale


def _mean(config: Section, key: str, default: Triple) -> Triple:
    mean = config.triple(key, default)
    if max(map(abs, mean)) > _LARGE:
        raise config.error(key, f'must be between {-_LARGE:g} and {_LARGE:g}')
    return mean


def _std(config: Section, key: str, default: Triple) -> Triple:
    std = config.triple(key, default)
    if not 1 / _LARGE <= min(std) <= max(std) <= _LARGE:
        raise config.error(key, f'must be between {1 / _LARGE:g} and {_LARGE:g}')
    return std


def _unsupported(config: Section, key: str, supported: str) -> CheckpointError:
    return CheckpointError(
        f'{config.source}: unsupported {key}={config.get(key)!r:.80}; supported: {supported}; {_HINT}'
    )
