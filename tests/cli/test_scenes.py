"""``clipdense segment --tiled``."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clipdense.cli.app import main
from clipdense.utils.image_io import read_mask

pytestmark = pytest.mark.usefixtures('apart')
VIEW = ('--window', '32', '--short-side', '0', '-c', 'cat, dog, sky')


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        main(['segment', *arguments])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def photo(path: str, size=(90, 70)) -> str:
    Image.effect_noise(size, 80).convert('RGB').save(path)
    return path


@pytest.mark.parametrize('suffix', ['png', 'jpg', 'tif'])
def test_masks_are_those_without_tiles(suffix, weights, tmp_path, capsys):
    image = photo(f'a.{suffix}')
    for out, options in (('whole', ()), ('rows', ('--tiled',))):
        status, _, said = run(capsys, image, '--weights', weights, '--out', out, *VIEW, *options)
        assert (status, 'Error' in said) == (0, False), said
    masks = [read_mask(next(tmp_path.glob(f'{out}/a_mask.*'))) for out in ('whole', 'rows')]
    assert np.array_equal(*masks)
    told = [json.loads((tmp_path / out / 'a.json').read_text())['segments'] for out in ('whole', 'rows')]
    assert [one['class'] for one in told[0]] == [one['class'] for one in told[1]]
    assert Image.open('rows/a_overlay.png').size == Image.open('whole/a_overlay.png').size


def test_one_bad_image_among_two(weights, tmp_path, capsys):
    bad = tmp_path / 'bad.png'
    bad.write_bytes((tmp_path / photo('good.png')).read_bytes()[:900])
    status, out, said = run(capsys, 'good.png', 'bad.png', '--weights', weights, '--tiled', *VIEW)
    assert status == 1
    assert 'bad.png is damaged' in said
    assert 'good_mask.png' in out
    assert not (tmp_path / 'segmented/bad_mask.png').exists()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--bands', '3,2,1'), 'need --tiled: add it'),
        (('--value-range', '0,9'), 'need --tiled: add it'),
        (('--tiled', '--bands', 'r,g,b'), "such as '3,2,1', got 'r,g,b'"),
        (('--tiled', '--bands', '1.5,2,3'), '--bands must be whole numbers'),
        (('--tiled', '--bands', '1,2'), 'must be three numbers'),
        (('--tiled', '--value-range', '5'), '--value-range must be two numbers'),
        (('--tiled', '--value-range', '9,1'), 'must be two increasing numbers'),
        (('--tiled', '--bands', '3,2,1'), 'is not a TIFF file'),
        (('--tiled', '--max-pixels', '100'), 'raise max_pixels (--max-pixels)'),
        (('--tiled', '--save', 'coco'), 'need the whole image'),
        (('--tiled', '--explain'), 'need the whole image'),
        (('--tiled', '--background', 'x', '--area-threshold', '0.1'), 'need the whole image'),
    ],
)
def test_refused_before_the_weights_are_read(options, message, tmp_path, capsys):
    (tmp_path / 'weights.pt').write_text('not read')
    status, _, said = run(capsys, photo('a.png'), '--weights', 'weights.pt', *VIEW, *options)
    assert status == 2
    assert message in said


def test_a_mask_that_exists(weights, tmp_path, capsys):
    (tmp_path / 'segmented').mkdir()
    (tmp_path / 'segmented/a_mask.png').write_text('mine')
    status, _, said = run(capsys, photo('a.png'), '--weights', weights, '--tiled', *VIEW)
    assert (status, 'exists' in said) == (2, True)
    assert (tmp_path / 'segmented/a_mask.png').read_text() == 'mine'
