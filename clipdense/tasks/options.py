"""Settings that every segmenter has, shared by Python, the command line and the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite

from clipdense.utils.errors import InputError

from .windows import Slide


@dataclass(frozen=True)
class SegmentationOptions:
    """Inference settings of a segmenter.  None keeps the model's own setting.

    Args:
        short_side: length in pixels that the shorter side is resized to; 0 keeps the size of the image.
        window: side of the square sliding windows in pixels; 0 uses the whole image.
        stride: distance between windows in pixels; half a window if only ``window`` is given.
        scales: relative image sizes whose class scores are averaged.
        flip: average over the horizontally flipped image too.
        background_threshold: probability below which a pixel becomes background (0 .. 1).
        area_threshold: classes that cover at most this fraction of the foreground are dropped (0 .. 1).
        refine: align masks with the edges of the image (PAMR).

    Raises:
        InputError: a value out of range.
    """

    short_side: int | None = None
    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    background_threshold: float | None = None
    area_threshold: float | None = None
    refine: bool | None = None

    def __post_init__(self) -> None:
        for name in ('background_threshold', 'area_threshold'):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 <= value <= 1):
                raise InputError(f'{name} must be a number between 0 and 1, got {value!r}')
        for name, least in (('short_side', 0), ('window', 0), ('stride', 1)):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value == int(value) and value >= least):
                raise InputError(f'{name} must be a whole number of at least {least}, got {value!r}')
        for name in ('flip', 'refine'):
            if not isinstance(getattr(self, name), bool | None):
                raise InputError(f'{name} must be True or False, got {getattr(self, name)!r}')
        if self.scales is not None:
            listed = isinstance(self.scales, list | tuple) and len(self.scales) > 0
            if not listed or not all(_is_number(scale) and scale > 0 for scale in self.scales):
                raise InputError(f'scales must be positive numbers such as (0.75, 1.0), got {self.scales!r}')
            object.__setattr__(self, 'scales', tuple(self.scales))

    @property
    def needs_background(self) -> bool:
        """Whether a setting has no effect without a background class."""
        return self.background_threshold is not None or bool(self.area_threshold)

    def slide(self, slide: Slide) -> Slide:
        """``slide`` with the settings that are not None.

        Raises:
            InputError: scales that are not positive, or a stride larger than the window.
        """
        if self.short_side is not None:
            slide = replace(slide, short_side=self.short_side or None)
        if self.window is not None:
            side = self.window or None
            slide = replace(slide, window=side, stride=max(1, side // 2) if side else None)
        if self.stride is not None:
            slide = replace(slide, stride=self.stride)
        if self.scales is not None:
            slide = replace(slide, scales=self.scales)
        return slide if self.flip is None else replace(slide, flip=self.flip)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
