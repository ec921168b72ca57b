"""``clipdense search`` and ``clipdense configs`` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdense.cli.app import main

pytestmark = pytest.mark.usefixtures('apart')


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.fixture
def photos(apart):
    """A folder of 8 images; one name has an emoji, one a line break."""
    rng = np.random.default_rng(0)
    for name in ('a.png', 'b.png', 'c.jpg', 'sub/d.png', 'sub/e 🐈.png', 'sub/f\ng.png', 'h.png', 'i.png'):
        path = Path('photos', name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return 'photos'


def test_search_by_text_and_by_image(capsys, photos, weights):
    status, out, err = run(capsys, 'search', photos, 'a red star', '-w', weights)
    assert status == 0, err
    assert len(out.splitlines()) == 8
    assert '8 images in the index, 8 added' in err
    status, out, err = run(capsys, 'search', photos, '--image', 'photos/b.png', '-w', weights, '--top', '1')
    assert (status, out) == (0, '1.0000  photos/b.png\n')
    assert 'no changes' in err


@pytest.mark.parametrize(('text', 'said'), [('собака на пляже', True), ('a dog on a beach', False)])
def test_a_text_in_another_script_is_said(capsys, recwarn, photos, weights, text, said):
    assert run(capsys, 'search', photos, text, '-w', weights)[0] == 0
    lines = [str(one.message) for one in recwarn]
    assert any('search texts are not in Latin script' in line for line in lines) == said


def test_what_a_program_reads(capsys, photos, weights):
    Path('photos/broken.jpg').write_bytes(b'text')
    arguments = ['-w', weights, '--index', 'my.safetensors', '--json', '--out', 'found.png', '--top', '3']
    status, out, err = run(capsys, 'search', photos, 'a red star', *arguments)
    assert status == 1
    assert 'skipped: photos/broken.jpg' in err
    answer = json.loads(out)
    assert (answer['query'], answer['images'], answer['changes']['embedded']) == (
        {'text': 'a red star'},
        8,
        8,
    )
    assert list(answer['changes']['failed']) == ['photos/broken.jpg']
    scores = [match['score'] for match in answer['matches']]
    assert scores == sorted(scores, reverse=True)
    assert all(Path(match['image']).is_file() for match in answer['matches'])
    assert Image.open('found.png').width > 500
    status, _, err = run(capsys, 'search', photos, 'a red star', *arguments)
    assert (status, 'found.png exists' in err) == (2, True)


def test_an_index_is_used_as_it_is(capsys, photos, weights):
    arguments = ['-w', weights, '--index', 'my.safetensors']
    run(capsys, 'search', photos, 'a star', *arguments)
    Path('photos/a.png').unlink()
    assert '1 removed' not in run(capsys, 'search', photos, 'a star', *arguments, '--no-update')[2]
    assert '7 images in the index, 1 removed' in run(capsys, 'search', photos, 'a star', *arguments)[2]
    assert '7 added' in run(capsys, 'search', photos, 'a star', *arguments, '--reindex')[2]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['phots', 'a star'], "Did you mean 'photos'?"),
        (['photos/a.png', 'a star'], 'photos/a.png is not a folder'),
        (['photos'], 'give a text or --image FILE'),
        (['photos', 'a star', '--image', 'photos/a.png'], 'one of the two'),
        (['photos', ' '], 'the text to search for is empty'),
        (['photos', '--image', 'no.png'], 'no.png'),
        (['photos', 'a star', '--index', 'index.npz'], 'an index is a .safetensors file'),
        (['photos', 'a star', '--index', 'no.safetensors', '--no-update'], 'no.safetensors'),
        (['photos', 'a star', '--no-update'], 'leave out --no-update'),
        (['photos', 'a star', '--max-pixels', '5'], 'mend those it left out'),
        (['photos', 'a star', '--reindex', '--no-update'], 'contradict each other'),
        (['photos', 'a star', '--out', 'found.gif'], '.png or .jpg'),
        (['photos', '--image', 'photos/a.png', '--out', 'photos/a.png', '--overwrite'], 'is an input'),
    ],
)
def test_wrong_calls_are_refused(capsys, photos, weights, arguments, message):
    status, _, err = run(capsys, 'search', *arguments, '-w', weights)
    assert (status, message in err) == (2, True), err


def test_an_index_of_other_weights_is_refused(capsys, photos, weights):
    command = ['search', photos, 'a star', '-w', weights, '--index', 'my.safetensors']
    run(capsys, *command)
    status, _, err = run(capsys, *command, '--override', 'preprocess=half')
    assert (status, 'was made with other weights' in err) == (2, True)
    assert run(capsys, *command, '--override', 'preprocess=half', '--reindex')[0] == 0


def test_another_file_is_not_replaced_by_an_index(capsys, photos, weights):
    before = Path(weights).read_bytes()
    for flag in ('--update', '--reindex'):
        status, _, err = run(capsys, 'search', photos, 'a star', '-w', weights, '--index', weights, flag)
        assert (status, 'is not an image index' in err) == (2, True)
    assert Path(weights).read_bytes() == before


def test_configs_are_listed_with_cost_and_score(capsys):
    status, out, _ = run(capsys, 'configs', 'lseg_scenes')
    assert status == 0
    assert 'cost: ' in out
    assert 'score: mIoU' in out
    status, out, _ = run(capsys, 'configs', 'lseg/lseg_scenes', '--json')
    (recipe,) = json.loads(out)
    assert recipe['name'] == 'lseg/lseg_scenes'
    assert 'clipdense train lseg/lseg_scenes' in recipe['text']
    status, _, err = run(capsys, 'configs', 'lsegg')
    assert (status, "Did you mean 'lseg'?" in err) == (2, True)


def test_a_folder_of_configs_is_no_config(capsys):
    status, _, err = run(capsys, 'train', 'lseg')
    assert status == 2
    assert 'lseg/lseg_scenes' in err
