"""`segment` on a camera or a stream, with a capture in place of OpenCV's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipdense.cli.app import main

pytestmark = pytest.mark.usefixtures('apart')


class Camera:
    """Three gray frames, and after them the end or Ctrl-C."""

    opened: list[Any]
    end: BaseException | None = None

    def __init__(self, *target):
        self.opened.append(target[0])
        self.left = 3

    def isOpened(self):
        return True

    def get(self, key):
        return 10.0

    def read(self):
        self.left -= 1
        if self.left < 0 and self.end:
            raise self.end
        return self.left >= 0, np.full((30, 40, 3), 90, np.uint8)

    def release(self):
        pass


@pytest.fixture
def camera(monkeypatch):
    cv2 = pytest.importorskip('cv2')
    kind = type('Fake', (Camera,), {'opened': []})
    monkeypatch.setattr(cv2, 'VideoCapture', kind)
    return kind


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize(
    ('options', 'frames', 'video', 'fault'),
    [
        (['camera:0', '--frames', '2'], 2, 'camera:0', None),
        (['camera:0'], 3, 'camera:0', None),
        (['camera:0', '--frames', '4'], 3, 'camera:0', 'camera:0 ended after 3 of 4 frames'),
        (['rtsp://me:secret@host/live', '--allow-url'], 3, 'rtsp://host/live', None),
        (['http://host/live.m3u8', '--allow-url'], 3, 'http://host/live.m3u8', None),
    ],
)
def test_segment(capsys, weights, camera, options, frames, video, fault):
    status, out, err = run(capsys, 'segment', *options, '-c', 'car, road', '-w', weights)
    assert status == 0, err
    assert f'{frames} frames' in out
    assert 'secret' not in out + err
    (file,) = Path('segmented').glob('*.json')
    values = json.loads(file.read_text())
    assert (values['video'], len(values['frames']), values['fault']) == (video, frames, fault)
    assert file.with_name(f'{file.stem}_overlay.mp4').stat().st_size


def test_interrupt_ends_it_and_keeps_what_was_read(capsys, weights, camera):
    camera.end = KeyboardInterrupt()
    status, out, err = run(capsys, 'segment', 'camera:0', '-c', 'car, road', '-w', weights)
    assert status == 0, err
    assert 'segmented/camera_0_overlay.mp4: 3 frames' in out
    assert len(json.loads(Path('segmented/camera_0.json').read_text())['frames']) == 3


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['rtsp://host/live'], 'is opened with --allow-url only'),
        (['http://host/live.m3u8'], 'is a URL'),
        (['camera:0', 'camera:1'], 'give one camera or stream'),
        (['camera:0', 'a.jpg'], 'give one camera or stream'),
        (['camera:0', '--explain'], 'remove --explain'),
        (['a.jpg', '--frames', '3'], '--frames is for cameras'),
        (['camera:0', '--frames', '0'], '--frames'),
        (['rtsp://', '--allow-url'], 'is not complete'),
        (['a.jpg', '--allow-url'], 'a.jpg does not exist'),
    ],
)
def test_refused(capsys, weights, camera, options, message):
    status, _, err = run(capsys, 'segment', *options, '-c', 'car, road', '-w', weights)
    assert (status, message in err) == (2, True), err
    assert not any('://' in str(target) for target in camera.opened)
    assert not Path('segmented').exists()
