"""``clipdense compare``: one drawing for each image, agreement, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from clipdense.cli.app import main

pytestmark = pytest.mark.usefixtures('apart')
METHODS = ['--method', 'maskclip', '--method', 'naclip']


@pytest.fixture
def photos():
    Path('photos').mkdir()
    for name in ('a.png', 'b.png'):
        Image.effect_noise((40, 30), 80).save(f'photos/{name}')


def run(capsys, weights, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(['compare', 'photos', '-c', 'car, road', '-w', weights, '--no-cache', *arguments])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def test_two_methods(capsys, weights, photos):
    status, out, err = run(capsys, weights, *METHODS, '-o', 'naclip.std=2.5')
    assert status == 0, err
    assert [line.partition(':')[0] for line in out.splitlines()] == [
        'compared/a_comparison.png',
        'compared/b_comparison.png',
        '2 images',
    ]
    assert out.count('of the pixels agree') == 3
    assert Image.open('compared/a_comparison.png').width > 80
    assert run(capsys, weights, *METHODS)[0] == 2  # exists
    assert run(capsys, weights, *METHODS, '--overwrite')[0] == 0


def test_two_weights_with_json_and_a_broken_image(capsys, weights, photos):
    Path('copy.safetensors').write_bytes(Path(weights).read_bytes())
    Path('photos/b.png').write_text('no image')
    status, out, err = run(capsys, weights, '-w', 'copy.safetensors', '--json')
    assert status == 1
    assert 'photos/b.png is not an image' in err
    found = json.loads(out)
    assert found['compared'] == [weights, 'copy.safetensors']
    assert found['total']['agreement'] == 1.0  # the same weights
    assert [row['image'] for row in found['images']] == ['photos/a.png']


WRONG = {
    'one method': (['--method', 'naclip'], 'takes two methods or two weights'),
    'three': ([*METHODS, '--method', 'sclip'], 'takes two methods or two weights'),
    'the same': (['--method', 'naclip', '--method', 'naclip'], 'are the same'),
    'an option of neither': ([*METHODS, '-o', 'sclip.scale=1'], 'sclip'),
    'an output that is an input': ([*METHODS, '--out', 'photos/a.png'], 'photos/a.png is not a folder'),
}


@pytest.mark.parametrize(('arguments', 'said'), WRONG.values(), ids=WRONG)
def test_wrong_pairs(capsys, weights, photos, arguments, said):
    status, out, err = run(capsys, weights, *arguments)
    assert (status, out) == (2, '')
    assert said in err
