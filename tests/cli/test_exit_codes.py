"""The exit codes of the table in docs/commands.md."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clipdense.cli.app import main

pytestmark = pytest.mark.usefixtures('apart')
ROOT = Path(__file__).parents[2]

TABLE = {
    'classify good.png': 0,
    'segment good.png': 0,
    'compare good.png --method maskclip --method naclip': 0,
    'label good.png --to coco': 0,
    'classify good.png bad.png': 1,
    'segment good.png bad.png': 1,
    'compare good.png bad.png --method maskclip --method naclip': 1,
    'label good.png bad.png --to coco': 1,
    'classify bad.png': 2,
    'segment bad.png': 2,
    'segment bad.png worse.png': 2,
    'segment missing.png': 2,
    'segment good.png --colour red': 2,
    'segment good.png --opacity 2': 2,
    'segment': 2,
    'nonsense good.png': 2,
}


@pytest.mark.parametrize(('command', 'expected'), TABLE.items())
def test_exit_codes(capsys, weights, command, expected):
    Image.effect_noise((40, 30), 80).save('good.png')
    for name in ('bad.png', 'worse.png'):
        Path(name).write_text('no image')
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), '-c', 'a, b', '-w', weights, '--no-cache'])
    assert (ended.value.code or 0) == expected, capsys.readouterr().err


def test_they_are_documented():
    text = (ROOT / 'docs' / 'commands.md').read_text('utf-8')
    assert set(re.findall(r'^\| (\d+) \|', text, re.MULTILINE)) == {'0', '1', '2', '130'}


def test_an_interrupt_keeps_what_is_finished(weights):
    Path('photos').mkdir()
    image = Image.effect_noise((40, 30), 80)
    for number in range(400):
        image.save(f'photos/{number:03}.png')
    command = ['segment', 'photos', '-c', 'a, b', '-w', weights, '--no-cache']
    process = subprocess.Popen(
        [sys.executable, '-u', '-m', 'clipdense', *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        # a test run in the background ignores SIGINT, which programs inherit
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith('clipdense: interrupted'), err
    done = [line.partition(': ')[0] for line in [first, *rest.splitlines()]]
    assert 1 <= len(done) < 400
    for overlay in done:
        for ending in ('_overlay.png', '_mask.png'):
            Image.open(overlay.replace('_overlay.png', ending)).load()
    assert not [path for path in Path('segmented').iterdir() if path.suffix == '.tmp']
