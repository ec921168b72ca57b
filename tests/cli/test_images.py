"""One bad image among many, whatever is wrong with it: named, counted, and the others are done."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from clipdense.cli.app import main


@pytest.fixture(autouse=True)
def photos(apart):
    Path('photos').mkdir()
    for name in ('good.png', 'z.png'):
        Image.effect_noise((40, 30), 80).save(f'photos/{name}')


def run(capsys, command, weights, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([command, 'photos', '-c', 'a, b', '-w', weights, '--no-cache', *arguments])
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


def undecodable(folder):
    with open(os.fsencode(folder) + b'/caf\xe9.png', 'wb') as file:
        file.write(b'broken')


def in_lines(folder):
    (folder / 'a\nb.png').write_bytes(b'broken')


BAD = {
    'not an image': (lambda folder: (folder / 'b.png').write_text('hello'), 'photos/b.png is not an image'),
    'empty': (lambda folder: (folder / 'b.png').touch(), 'photos/b.png is empty'),
    'FIFO': (lambda folder: os.mkfifo(folder / 'b.png'), 'photos/b.png is a named pipe'),
    'device': (lambda folder: (folder / 'b.png').symlink_to('/dev/zero'), 'photos/b.png is a device'),
    'broken link': (lambda folder: (folder / 'b.png').symlink_to('gone'), 'is a link to gone'),
    'EPS': (lambda folder: (folder / 'b.jpg').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n'), 'PostScript'),
    'not UTF-8': (undecodable, r'photos/caf\udce9.png is not an image'),
    'line break': (in_lines, 'photos/a b.png is not an image'),
    'too large': (lambda folder: Image.new('1', (13_400, 13_400)).save(folder / 'b.png'), '--max-pixels'),
}


@pytest.mark.parametrize('command', ['segment', 'classify'])
@pytest.mark.parametrize(('make', 'said'), BAD.values(), ids=BAD)
def test_the_other_images_are_done(capsys, weights, tmp_path, command, make, said):
    make(tmp_path / 'photos')
    status, out, err = run(capsys, command, weights)
    assert status == 1
    assert said in err
    assert '1 of 3 images were skipped (named above), 2 done in' in err
    assert ('results in segmented' in err) == (command == 'segment')
    assert len(out.splitlines()) == 2


LIMITED = """
import resource, sys
from pathlib import Path
from PIL import Image
from clipdense.cli.app import main

def status():
    try:
        main(['classify', 'photos', '-c', 'a, b', '-w', sys.argv[1], '--no-cache'])
    except SystemExit as ended:
        return ended.code or 0

assert status() == 0  # imports what it needs
Image.new('1', (12_000, 14_000)).save('photos/b.png')
used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
sys.exit(status())
"""


def test_an_image_larger_than_the_memory(weights):
    """The address space of a process of its own is limited: in this one, memory of earlier tests is free."""
    done = subprocess.run(
        [sys.executable, '-c', LIMITED, weights],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 1, done.stderr
    assert 'photos/b.png: not enough memory for 12000 x 14000 pixels' in done.stderr
    assert len(done.stdout.splitlines()) == 4  # two images, twice


@pytest.mark.parametrize(
    ('limit', 'status', 'said'),
    [(1199, 2, 'none of 2 images could be processed'), (1200, 0, '')],
)
def test_the_limit_of_pixels_is_an_option(capsys, weights, limit, status, said):
    got, _, err = run(capsys, 'segment', weights, '--max-pixels', str(limit))
    assert (got, said in err) == (status, True)


def test_names_of_images_survive_in_json(capsys, weights):
    good = Path('photos/good.png').read_bytes()
    for name in (b'photos/caf\xe9.png', b'photos/a\nb.png'):
        with open(name, 'wb') as file:
            file.write(good)
    status, out, _ = run(capsys, 'classify', weights, '--out', 'result.json')
    assert status == 0
    assert r'photos/caf\udce9.png: ' in out
    names = [os.fsencode(row['image']) for row in json.loads(Path('result.json').read_text('utf-8'))]
    assert set(names) == {b'photos/caf\xe9.png', b'photos/a\nb.png', b'photos/good.png', b'photos/z.png'}


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--out', 'photos/good.png', '--overwrite'], 'photos/good.png is an input'),
        (['--out', '/dev/null', '--overwrite'], 'it is a device, not a file'),
        (['--out', 'photos'], 'it is a folder, not a file'),
        (['--out', 'photos/good.png/result.json'], 'photos/good.png is not a folder'),
        (['--max-pixels', '0'], 'max-pixels'),
    ],
)
def test_outputs_are_checked_before_anything_runs(capsys, weights, arguments, said):
    before = Path('photos/good.png').read_bytes()
    status, out, err = run(capsys, 'classify', weights, *arguments)
    assert (status, out) == (2, '')
    assert said in err
    assert Path('photos/good.png').read_bytes() == before


@pytest.mark.parametrize('option', ['--vocab', '--embedder'])
@pytest.mark.parametrize(
    ('command', 'name'),
    [('segment', 'good.json'), ('detect', 'names.json'), ('classify', 'a.json'), ('embed', 'a.safetensors')],
)
def test_class_names_and_embeddings_are_inputs(capsys, weights, command, name, option):
    Path('results').mkdir()
    given = Path('results', name)
    given.write_text('["cat", "dog"]')
    out = given if command in ('classify', 'embed') else given.parent
    arguments = ['-w', str(weights), '--out', str(out), '--overwrite', option, str(given)]
    arguments += ['-c', 'cat, dog'] if option == '--embedder' else []
    with pytest.raises(SystemExit) as end:
        main([command, *(() if command == 'embed' else ('photos/good.png',)), *arguments])
    err = capsys.readouterr().err
    refused = f'{given} is an input', 'not a class list', 'cannot be read as safetensors'
    assert (end.value.code, any(text in err for text in refused)) == (2, True), err
    assert given.read_text() == '["cat", "dog"]'


def test_results_in_the_folder_of_the_images(capsys, weights):
    """The first run writes beside the images; the second would replace its results, now images too."""
    assert run(capsys, 'segment', weights, '--out', 'photos')[0] == 0
    status, _, err = run(capsys, 'segment', weights, '--out', 'photos', '--overwrite')
    assert status == 2
    assert 'is an input' in err


@pytest.mark.parametrize('command', ['segment', 'classify'])
@pytest.mark.parametrize('size', ['2', 'auto'])
def test_batches_change_nothing(capsys, weights, command, size):
    Image.effect_noise((30, 40), 80).save('photos/other_shape.png')
    alone = timeless(run(capsys, command, weights, '--batch-size', '1'))
    assert timeless(run(capsys, command, weights, '--batch-size', size, *again(command))) == alone


def timeless(result):
    return *result[:2], re.sub(r'[0-9.]+ s\b', 'some s', result[2])


def again(command):
    return ['--overwrite'] if command == 'segment' else []


@pytest.mark.parametrize('size', ['0', '-1', '1.5', 'all', ''])
def test_batch_sizes_that_are_none(capsys, weights, size):
    status, _, err = run(capsys, 'segment', weights, '--batch-size', size)
    assert status == 2
    assert 'not a whole number of at least 1' in ' '.join(err.split())
