"""Jobs in parts as a user calls them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdense.cli.app import main

pytestmark = pytest.mark.usefixtures('apart')


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.fixture
def photos(apart):
    Path('photos').mkdir()
    for number in range(3):
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(f'photos/{number}.png')
    return 'photos'


def test_embed_images(capsys, photos, weights):
    arguments = ['embed', 'images', photos, 'out', '-w', weights]
    assert run(capsys, *arguments)[:2] == (0, 'out: 3 images embedded\n')
    assert run(capsys, *arguments)[:2] == (0, 'out: 0 images embedded\n')
    Path('photos/bad.jpg').write_bytes(b'text')
    status, out, err = run(capsys, *arguments[:3], 'new', *arguments[4:])
    assert (status, out) == (1, 'new: 3 images embedded, 1 skipped\n')
    assert 'skipped: ' in err
    assert 'bad.jpg' in err


COMMANDS = [
    ['nouns', 'photos', 'out'],
    ['filter', 'photos', 'out', '--min-size', '10'],
    ['caption', 'shards', 'out', '-w', 'WEIGHTS'],
    ['pseudo-label', 'photos', 'out', '--teacher', 'glip.safetensors'],
    ['embed', 'images', 'photos', 'out'],
    ['embed', 'regions', 'vild/vild_scenes', 'weights.pth', 'out'],
    ['caption', 'photos', 'out', '--weights', 'weights.pth'],
    ['pseudo-label', 'photos', 'out', '--teacher', 'weights.pth'],
]


@pytest.mark.parametrize('command', COMMANDS, ids=' '.join)
@pytest.mark.parametrize('part', ['3', '0/2', '3/2', '1/0', '-1/2', '1.5/2', '1/2/3', 'a/b', '', '1/9999999'])
def test_what_is_no_part(capsys, photos, command, part):
    status, out, err = run(capsys, *command, '--part', part)
    assert (status, out) == (2, '')
    assert err.count('\n') == 1
    assert 'a part is I/N with I from 1 to N, as in 2/8; got ' in err
    assert not Path('out').exists()


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['embed', 'images', 'nowhere', 'out'], 'nowhere does not exist'),
        (['embed', 'images', 'photos', 'photos/0.png', '-w', 'WEIGHTS'], 'is not a folder'),
        (['embed', 'images', 'photos', 'photos', '-w', 'WEIGHTS'], 'exists and does not belong to a job'),
        (['nouns', 'photos', 'out', '--part', '1/2'], 'no shards in photos'),
    ],
)  # fmt: skip
def test_refusals(capsys, photos, weights, arguments, message):
    status, out, err = run(capsys, *[weights if one == 'WEIGHTS' else one for one in arguments])
    assert (status, out) == (2, '')
    assert message in err
    assert not Path('out').exists()
