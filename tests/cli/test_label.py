"""``clipdense label``, and ``--save`` of ``segment`` and ``detect``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from pycocotools.coco import COCO

from clipdense.cli.app import main

pytestmark = pytest.mark.usefixtures('apart')
CLASSES = ('-c', 'car, sky', '--background', 'background')


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.fixture
def photos():
    """Two images of one name, and a file that is no image."""
    for folder in ('photos/a', 'photos/b'):
        Path(folder).mkdir(parents=True)
        Image.effect_noise((40, 30), 80).convert('RGB').save(f'{folder}/1.jpg')
    return 'photos'


def test_one_bad_image_does_not_stop_the_others(capsys, weights, photos):
    Path('photos/bad.jpg').write_text('<html>')
    status, out, err = run(capsys, 'label', photos, *CLASSES, '-w', weights, '--to', 'coco')
    assert status == 1
    assert 'skipped: photos/bad.jpg' in err
    assert '1 of 3 images were skipped' in err
    assert 'in 2 images' in out.splitlines()[-1]
    coco = COCO('labels/annotations.json')
    assert [one['name'] for one in coco.cats.values()] == ['car', 'sky']
    assert sorted(one['file_name'] for one in coco.imgs.values()) == ['a_1.jpg', 'b_1.jpg']


def test_areas_and_scores(capsys, weights, photos):
    arguments = ('label', photos, *CLASSES, '-w', weights, '--to', 'csv', '--out')
    assert run(capsys, *arguments, 'all')[0] == 0
    assert run(capsys, *arguments, 'large', '--min-area', '100')[0] == 0
    assert run(capsys, *arguments, 'none', '--score-threshold', '1')[0] == 0
    counts = [len(Path(f'{name}/objects.csv').read_text().splitlines()) for name in ('all', 'large', 'none')]
    assert counts[0] >= counts[1] >= counts[2] == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--to', 'coko'), '--to must be one of'),
        (('--to', 'coco', '--out', 'photos'), 'contains the input'),
        (('--to', 'coco', '--out', 'full'), 'full exists and is not empty'),
        (('--to', 'coco', '--out', 'full/file'), 'is not a folder'),
        (('--to', 'coco', '--score-threshold', '2'), '--score-threshold'),
        (('--to', 'coco', '-w', 'nothing.pth'), 'nothing.pth'),
        ((), '--to'),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(capsys, weights, photos, arguments, message):
    Path('full').mkdir()
    Path('full/file').write_text('')
    given = arguments if '-w' in arguments else ('-w', weights, *arguments)
    status, _, err = run(capsys, 'label', photos, *CLASSES, *given)
    assert status == 2
    assert message in err
    assert not Path('labels').exists()


def test_overwrite(capsys, weights, photos):
    arguments = ('label', photos, *CLASSES, '-w', weights, '--to', 'yolo')
    assert run(capsys, *arguments)[0] == 0
    assert run(capsys, *arguments)[0] == 2
    assert run(capsys, *arguments, '--overwrite')[0] == 0


def test_segment_saves_data_sets(capsys, weights, photos):
    arguments = ('segment', photos, *CLASSES, '-w', weights, '--save', 'coco', '--save', 'labelme')
    status, out, err = run(capsys, *arguments, '--min-area', '5')
    assert status == 0, err
    assert 'segmented/coco/annotations.json: ' in out
    assert len(json.loads(Path('segmented/coco/annotations.json').read_text())['images']) == 2
    assert Path('segmented/labelme/a_1.json').is_file()
    assert run(capsys, *arguments)[0] == 2
