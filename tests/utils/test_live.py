"""Cameras and streams, with a capture in place of OpenCV's: no camera and no network is opened."""

from __future__ import annotations

import numpy as np
import pytest

from clipdense.utils.errors import InputError
from clipdense.utils.live import LiveFrames, is_camera, is_stream

cv2 = pytest.importorskip('cv2')
URL = 'rtsp://guest:secret@camera.example:554/street?token=1'


class Capture:
    """Gives blue frames (BGR) until they are used up."""

    opened: list
    frames = 5
    rate = 10.0

    def __init__(self, *target):
        self.opened.append(target)
        self.left = self.frames

    def isOpened(self):
        return self.frames is not None

    def get(self, key):
        return self.rate if key == cv2.CAP_PROP_FPS else 0.0

    def read(self):
        self.left -= 1
        return (True, np.full((6, 8, 3), (200, 0, 10), np.uint8)) if self.left >= 0 else (False, None)

    def release(self):
        self.opened.append('released')


@pytest.fixture
def capture(monkeypatch):
    """The class, whose attributes a test may change."""
    kind = type('Fake', (Capture,), {'opened': []})
    monkeypatch.setattr(cv2, 'VideoCapture', kind)
    return kind


@pytest.mark.parametrize('source', [0, 'camera:0', ' camera:0 '])
def test_a_camera(capture, source):
    live = LiveFrames(source, frames=3)
    frames = list(live)
    assert (len(frames), live.frames_read, live.expected, live.rate) == (3, 3, 3, 10)
    assert frames[0].size == (8, 6)
    assert frames[0].getpixel((0, 0)) == (10, 0, 200)
    assert (live.name, str(live), live.fault) == ('camera_0', 'camera:0', None)
    assert capture.opened == [(0,), 'released', (0,), 'released']


def test_a_stream_ends_and_shows_no_password(capture):
    live = LiveFrames(URL)
    assert len(list(live)) == 5
    assert live.fault is None
    assert (live.name, str(live)) == ('rtsp_camera.example', 'rtsp://camera.example:554/street')
    address, backend, limits = capture.opened[0]
    assert (address, backend) == (URL, cv2.CAP_FFMPEG)
    assert cv2.CAP_PROP_OPEN_TIMEOUT_MSEC in limits


def test_a_stream_that_ends_early_says_so(capture):
    live = LiveFrames(URL, frames=9)
    assert len(list(live)) == 5
    assert live.fault == 'rtsp://camera.example:554/street ended after 5 of 9 frames'


@pytest.mark.parametrize('rate', [0.0, -1.0, float('nan'), float('inf'), 1e9])
def test_a_rate_that_no_camera_has(capture, rate):
    capture.rate = rate
    assert LiveFrames(0).rate == 25


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('street.mp4', "'street.mp4' is neither a camera .camera:0. nor the address of a stream"),
        ('file:///etc/passwd', 'neither a camera'),
        ('camera:', 'neither a camera'),
        ('camera:one', 'neither a camera'),
        ('camera:100', 'cameras are numbered from 0'),
        (-1, 'neither a camera'),
        (True, 'neither a camera'),
        (None, 'neither a camera'),
        ('rtsp://', 'is not complete'),
        ('rtsp://host:port/', 'is not complete'),
        ('rtsp://guest:secret@[::1/', 'is not complete'),
        ('http:///a.mp4', 'is not complete'),
    ],
)
def test_refused(capture, source, message):
    with pytest.raises(InputError, match=message) as refused:
        LiveFrames(source)
    assert 'secret' not in str(refused.value)
    assert capture.opened == []


@pytest.mark.parametrize('frames', [0, -1, 1.5, True, '3'])
def test_refused_numbers_of_frames(capture, frames):
    with pytest.raises(InputError, match='frames must be a whole number of at least 1'):
        LiveFrames(0, frames)


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        (7, '^camera:7 cannot be opened: there is no such camera, or it is in use$'),
        (URL, '^rtsp://camera.example:554/street cannot be opened: no video was received within 10 seconds$'),
    ],
)
def test_what_cannot_be_opened(capture, source, message):
    capture.frames = None
    with pytest.raises(InputError, match=message):
        LiveFrames(source)


def test_no_frame_at_all_and_too_large_frames(capture):
    with pytest.raises(InputError, match='a frame of camera:0'):
        list(LiveFrames(0, max_pixels=40))
    capture.frames = 0
    with pytest.raises(InputError, match='camera:0 gives no frames'):
        list(LiveFrames(0))


@pytest.mark.parametrize('source', ['camera:3', 'rtsp://a/b', 'HTTPS://a/b.m3u8', 'a.jpg', 'camera:a', 3])
def test_what_is_live(source):
    assert (is_camera(source), is_stream(source)) == (source == 'camera:3', '://' in str(source))
