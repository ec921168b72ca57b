"""Frames of cameras and network streams, which are opened only where they are asked for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from math import isfinite
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from .errors import InputError
from .image_open import MAX_PIXELS, check_pixels
from .video import ASSUMED_RATE, opencv, quiet

SCHEMES = ('rtsp', 'rtsps', 'rtmp', 'http', 'https')
_CAMERA = re.compile(r'camera:(\d+)')
_WAIT = 10_000  # milliseconds for a stream to open, and for each of its frames


def is_camera(source: object) -> bool:
    """Whether a text means a camera: ``camera:0``."""
    return isinstance(source, str) and _CAMERA.fullmatch(source.strip()) is not None


def is_stream(source: object) -> bool:
    """Whether a text is the address of a network stream."""
    return isinstance(source, str) and source.strip().lower().startswith(tuple(f'{s}://' for s in SCHEMES))


class LiveFrames:
    """The frames of a camera or network stream, read one after another as Pillow images (RGB).

    ``segmenter.stream(LiveFrames('camera:0', frames=100), names)`` segments them.  A stream is downloaded
    from where its address says; passwords in it are not shown or stored.

    Args:
        source: ``camera:0`` or the number of a camera, or the address of a stream (RTSP, RTMP, HTTP).
        frames: how many are read; None reads until the stream ends.
        max_pixels: larger frames are refused.

    Attributes:
        name: of the source, for names of files and messages.
        rate: frames a second, as the source says.
        expected: ``frames``, or 0 without a limit.
        frames_read: number of frames that were read so far.
        fault: what went wrong; None so far.

    Raises:
        InputError: no camera or stream, or it cannot be opened.
    """

    def __init__(self, source: str | int, frames: int | None = None, max_pixels: int = MAX_PIXELS) -> None:
        self._target, self.name, self._shown = _parse(source)
        if frames is not None and (isinstance(frames, bool) or not isinstance(frames, int) or frames < 1):
            raise InputError(f'frames must be a whole number of at least 1, or None, got {frames!r}')
        self.frames, self.max_pixels = frames, max_pixels
        self.expected, self.frames_read = frames or 0, 0
        self.fault: str | None = None
        capture = self._open()
        try:
            rate = capture.get(opencv().CAP_PROP_FPS)
        finally:
            capture.release()
        self.rate = rate if isfinite(rate) and 0 < rate <= 1000 else ASSUMED_RATE

    def __str__(self) -> str:
        """The source without user and password."""
        return self._shown

    def __iter__(self) -> Iterator[Image.Image]:
        """The frames.

        Raises:
            InputError: no frame can be read, or a frame is too large.
        """
        capture, self.frames_read, self.fault = self._open(), 0, None
        try:
            while self.frames is None or self.frames_read < self.frames:
                found, frame = capture.read()
                if not found or frame is None:
                    break
                check_pixels((frame.shape[1], frame.shape[0]), self.max_pixels, f'a frame of {self}')
                self.frames_read += 1
                yield Image.fromarray(np.ascontiguousarray(frame[..., 2::-1]))
        finally:
            capture.release()
        if not self.frames_read:
            raise InputError(f'{self} gives no frames: it may be used by another program, or have ended')
        if self.frames is not None and self.frames_read < self.frames:
            self.fault = f'{self} ended after {self.frames_read} of {self.frames} frames'

    def _open(self) -> Any:
        cv = opencv()
        with quiet():
            if isinstance(self._target, int):
                capture = cv.VideoCapture(self._target)
            else:
                limits = [cv.CAP_PROP_OPEN_TIMEOUT_MSEC, _WAIT, cv.CAP_PROP_READ_TIMEOUT_MSEC, _WAIT]
                capture = cv.VideoCapture(self._target, cv.CAP_FFMPEG, limits)
        if not capture.isOpened():
            capture.release()
            what = (
                'there is no such camera, or it is in use'
                if isinstance(self._target, int)
                else (f'no video was received within {_WAIT // 1000} seconds')
            )
            raise InputError(f'{self} cannot be opened: {what}')
        return capture


def _parse(source: object) -> tuple[str | int, str, str]:
    """What OpenCV opens, a name for files, and what may be shown.

    Raises:
        InputError: neither a camera nor the address of a stream.
    """
    if isinstance(source, int) and not isinstance(source, bool) and source >= 0:
        source = f'camera:{source}'
    text = source.strip() if isinstance(source, str) else ''
    if match := _CAMERA.fullmatch(text):
        number = int(match[1])
        if number > 99:
            raise InputError(f'{text}: cameras are numbered from 0, as camera:0')
        return number, f'camera_{number}', f'camera:{number}'
    if not is_stream(text):
        raise InputError(
            f'{source!r} is neither a camera (camera:0) nor the address of a stream ({", ".join(SCHEMES)}): '
            'pass video files by their name'
        )
    with contextlib.suppress(ValueError):  # a port that is not a number, brackets that are not closed
        parts = urlsplit(text)
        if parts.hostname and (parts.port is None or parts.port):
            host = parts.hostname if parts.port is None else f'{parts.hostname}:{parts.port}'
            return text, f'{parts.scheme}_{parts.hostname}', f'{parts.scheme}://{host}{parts.path}'
    raise InputError('the address of the stream is not complete: scheme://host/path')
