"""Read and write video files frame by frame, with OpenCV (its own FFmpeg)."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .errors import InputError, WriteError
from .files import output_file, regular_file
from .image_open import MAX_PIXELS, check_pixels

VIDEO_SUFFIXES = frozenset(['.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm', '.wmv'])
ASSUMED_RATE = 25.0  # frames a second, of a file that does not say


def is_video(path: object) -> bool:
    """Whether a path has the suffix of a video."""
    return isinstance(path, str | Path) and Path(path).suffix.lower() in VIDEO_SUFFIXES


class VideoFrames:
    """The frames of a video file, read one after another as Pillow images (RGB, turned as displayed).

    Args:
        path: the file.
        max_pixels: larger frames are refused.

    Attributes:
        rate: frames a second.
        expected: number of frames by the header of the file; 0 if it does not say.
        frames_read: number of frames that were read so far.
        fault: what is wrong with the file; None so far.

    Raises:
        InputError: no regular file, or not a video.
    """

    def __init__(self, path: str | Path, max_pixels: int = MAX_PIXELS) -> None:
        if str(path).startswith(('http:/', 'https:/', 'rtsp:/')):
            raise InputError(
                f'{path} is a URL; download the video, or pass clipdense.LiveFrames(URL) to stream'
            )
        self.path, self.max_pixels = regular_file(path), max_pixels
        self.frames_read = 0
        self.fault: str | None = None
        capture = self._open()
        try:
            rate, expected = (capture.get(key) for key in _properties())
        finally:
            capture.release()
        self.rate = rate if isfinite(rate) and 0 < rate <= 1000 else ASSUMED_RATE
        self.expected = int(expected) if isfinite(expected) and 0 < expected < 1e9 else 0

    def __str__(self) -> str:
        """The path."""
        return str(self.path)

    def __iter__(self) -> Iterator[Image.Image]:
        """The frames.

        Raises:
            InputError: no frame can be read, or a frame is too large.

        Warns:
            UserWarning: the file ends before its last frame; those before are kept.
        """
        capture, self.frames_read, self.fault = self._open(), 0, None
        try:
            while True:
                found, frame = capture.read()
                if not found or frame is None:
                    break
                check_pixels((frame.shape[1], frame.shape[0]), self.max_pixels, f'a frame of {self.path}')
                self.frames_read += 1
                yield Image.fromarray(np.ascontiguousarray(frame[..., 2::-1]))
        finally:
            capture.release()
        self._check_end()

    def _check_end(self) -> None:
        if not self.frames_read:
            raise InputError(f'{self.path} has no frame that can be read: it is damaged, or no video')
        missing = self.expected - self.frames_read
        if missing > max(2, self.expected // 50):  # headers of some formats are estimates
            self.fault = f'{self.frames_read} of {self.expected} frames could be read'
            warnings.warn(f'{self.path} is damaged or truncated: {self.fault}', stacklevel=3)

    def _open(self) -> Any:
        with quiet():
            capture = opencv().VideoCapture(str(self.path.absolute()), opencv().CAP_FFMPEG)
        if not capture.isOpened():
            capture.release()
            size = self.path.stat().st_size
            raise InputError(
                f'{self.path} cannot be opened as a video ({size} bytes): it is damaged or truncated, or of '
                'another format'
            )
        return capture


class VideoWriter:
    """Writes an MP4 file (MPEG-4) under another name, which is replaced by ``finish``.

    Args:
        path: ends in ``.mp4``.
        rate: frames a second.

    Raises:
        WriteError: the file cannot be written.
    """

    def __init__(self, path: str | Path, rate: float) -> None:
        self.path, self.rate = output_file(path), rate
        self._partial = self.path.with_name(f'.{self.path.stem}.partial.mp4')
        self._writer: Any = None
        self._size = (0, 0)

    def write(self, image: Image.Image) -> None:
        """Add a frame; sides are made even, and all frames have the size of the first."""
        if self._writer is None:
            self._start(image)
        frame = np.asarray(image if image.size == self._size else image.crop((0, 0, *self._size)))
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def finish(self) -> None:
        """Close the file and give it its name.

        Raises:
            WriteError: no frame was written, or the disk is full.
        """
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        if not self._partial.exists() or not self._partial.stat().st_size:
            raise WriteError(f'{self.path} could not be written: the disk may be full')
        os.replace(self._partial, self.path)

    def discard(self) -> None:
        """Close and remove what was written, if it is not finished."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        self._partial.unlink(missing_ok=True)

    def _start(self, image: Image.Image) -> None:
        self._size = image.width + image.width % 2, image.height + image.height % 2
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cv = opencv()
        with quiet():
            code = cv.VideoWriter.fourcc(*'mp4v')
            self._writer = cv.VideoWriter(str(self._partial), cv.CAP_FFMPEG, code, self.rate, self._size)
        if not self._writer.isOpened():
            raise WriteError(f'{self.path} cannot be written as a video')


def opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise InputError(f'videos need OpenCV ({error}): pip install opencv-python-headless') from error
    return cv2


def _properties() -> tuple[int, int]:
    cv = opencv()
    return cv.CAP_PROP_FPS, cv.CAP_PROP_FRAME_COUNT


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without OpenCV's warnings of files that it cannot open, which our error says."""
    logging = getattr(getattr(opencv(), 'utils', None), 'logging', None)
    if logging is None:
        yield
        return
    before = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(before)
