"""Video files: read frame by frame, damaged ones too, and written."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from clipdense.utils.errors import InputError, WriteError
from clipdense.utils.video import VideoFrames, VideoWriter, is_video

cv2 = pytest.importorskip('cv2')


def write(path, frames=30, size=(64, 48), code='MJPG', rate=10.0):
    """A video whose frames are red, with noise."""
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), rate, size)
    for _ in range(frames):
        frame = rng.integers(0, 60, (size[1], size[0], 3), dtype=np.uint8)
        frame[..., 2] += 190
        writer.write(frame)
    writer.release()
    return path


@pytest.mark.parametrize(('name', 'code'), [('a.avi', 'MJPG'), ('a.mp4', 'mp4v')])
def test_frames(tmp_path, name, code):
    video = VideoFrames(write(tmp_path / name, code=code))
    frames = list(video)
    assert (len(frames), video.frames_read, video.expected, video.rate) == (30, 30, 30, 10)
    assert video.fault is None
    assert frames[0].size == (64, 48)
    red, green, blue = np.asarray(frames[0]).mean(axis=(0, 1))
    assert red > 150 > max(green, blue)
    assert len(list(video)) == 30


@pytest.mark.filterwarnings('ignore:.*truncated')
def test_a_truncated_video_keeps_its_first_frames(tmp_path):
    data = write(tmp_path / 'a.avi').read_bytes()
    (tmp_path / 'b.avi').write_bytes(data[: len(data) * 6 // 10])
    video = VideoFrames(tmp_path / 'b.avi')
    with pytest.warns(UserWarning, match=r'b\.avi is damaged or truncated: \d+ of 30 frames could be read'):
        frames = list(video)
    assert 10 < len(frames) < 28
    assert video.fault == f'{len(frames)} of 30 frames could be read'


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.mp4', b'', 'cannot be opened as a video \\(0 bytes\\)'),
        ('a.mp4', b'<!doctype html>', 'cannot be opened as a video'),
        ('a.mp4', 'truncated', 'cannot be opened as a video'),
        ('absent.mp4', None, 'does not exist'),
        ('https://example.org/a.mp4', None, 'is a URL; download the video'),
    ],
)
def test_refused(tmp_path, name, content, message):
    if content == 'truncated':
        content = write(tmp_path / 'whole.mp4', code='mp4v').read_bytes()[:3000]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        VideoFrames(name if '://' in name else tmp_path / name)


def test_large_frames(tmp_path):
    with pytest.raises(InputError, match=r'a frame of .* has 64 x 48 pixels, more than the limit of 100'):
        list(VideoFrames(write(tmp_path / 'a.avi'), max_pixels=100))


def test_written_and_read_again(tmp_path):
    writer = VideoWriter(tmp_path / 'out' / 'a.mp4', 12.5)
    for shade in range(0, 200, 10):
        writer.write(Image.new('RGB', (33, 21), (shade, 0, 0)))
    assert not (tmp_path / 'out' / 'a.mp4').exists()
    writer.finish()
    video = VideoFrames(tmp_path / 'out' / 'a.mp4')
    frames = list(video)
    assert (len(frames), frames[0].size, video.rate) == (20, (34, 22), 12.5)
    assert np.asarray(frames[-1])[10, 10, 0] > 150
    assert [path.name for path in (tmp_path / 'out').iterdir()] == ['a.mp4']


def test_nothing_is_left_of_an_unfinished_video(tmp_path):
    writer = VideoWriter(tmp_path / 'a.mp4', 10)
    writer.write(Image.new('RGB', (32, 32)))
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(WriteError, match='could not be written'):
        VideoWriter(tmp_path / 'a.mp4', 10).finish()


@pytest.mark.parametrize(
    ('name', 'expected'), [('a.MP4', True), ('a.gif', False), ('mp4', False), (3, False)]
)
def test_names(name, expected):
    assert is_video(name) is expected
