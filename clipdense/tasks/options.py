"""Settings that every segmenter has, shared by Python, the command line and the benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clipdense.utils.errors import InputError

from .windows import Slide


@dataclass(frozen=True)
class SegmentationOptions:
    """Inference settings of a segmenter.  None keeps the model's own setting.

    Args:
        short_side: length in pixels that the shorter side is resized to.
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
            if value is not None and not 0 <= value <= 1:
                raise InputError(f'{name} must be between 0 and 1, got {value}')
        for name, least in (('short_side', 1), ('window', 0), ('stride', 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f'{name} must be at least {least}, got {value}')

    def slide(self, slide: Slide) -> Slide:
        """``slide`` with the settings that are not None.

        Raises:
            InputError: scales that are not positive, or a stride larger than the window.
        """
        if self.short_side is not None:
            slide = replace(slide, short_side=self.short_side)
        if self.window is not None:
            side = self.window or None
            slide = replace(slide, window=side, stride=max(1, side // 2) if side else None)
        if self.stride is not None:
            slide = replace(slide, stride=self.stride)
        if self.scales is not None:
            slide = replace(slide, scales=self.scales)
        return slide if self.flip is None else replace(slide, flip=self.flip)
