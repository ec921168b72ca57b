"""``clipdense probe``: a linear classifier, nearest neighbors and fine-tuning on folders of images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from clipdense.cli import main

pytestmark = [pytest.mark.usefixtures('apart')]


@pytest.fixture
def run(capsys):
    def call(*arguments) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def pets(tmp_path):
    """``pets(name, count)``: a folder with two classes of gray images, dark cats and bright dogs."""

    def write(name, count=6, classes=('cat', 'dog')):
        rng = np.random.default_rng(len(name))
        for label, kind in enumerate(classes):
            folder = tmp_path / name / kind
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(30 + 190 * label + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f'{number}.png')
        return tmp_path / name

    return write


def test_all_kinds_of_a_folder_with_parts(run, pets, weights):
    pets('data/train')
    folder = pets('data/test').parent
    kinds = [word for kind in ('linear', 'knn', 'finetune') for word in ('--how', kind)]
    arguments = ('probe', folder, '-w', weights, *kinds, '--epochs', 3, '--batch-size', 4, '--json')
    code, out, said = run(*arguments)
    assert code == 0, said
    found = json.loads(out)
    assert {name: found[f'{name}/top1'] for name in ('linear', 'knn')} == {'linear': 1.0, 'knn': 1.0}
    assert found['finetune/count'] == 12
    assert 0 <= found['finetune/top1'] <= 1


def test_shots_and_another_folder(run, pets, weights):
    code, out, said = run('probe', pets('a'), '--test', pets('b', 3), '-w', weights, '--shots', 2)
    assert code == 0, said
    lines = [line.split()[0] for line in out.splitlines()]
    assert lines == ['linear:', 'knn:']
    assert 'top1 1' in out
    assert 'count 6' in out


def test_parts_are_drawn_and_said(run, pets, weights):
    with pytest.warns(UserWarning, match='its images are split within each class'):
        code, out, _ = run('probe', pets('all', 10), '-w', weights, '--how', 'knn')
    assert (code, 'top1 1' in out) == (0, True)


MISTAKES = {
    'no data': (['nowhere'], 'nowhere does not exist'),
    'no test data': (['{data}', '--test', 'nowhere'], 'nowhere does not exist'),
    'unknown kind': (['{data}', '--how', 'svm'], "--how must be one of linear, knn, finetune, got 'svm'"),
    'no neighbors': (['{data}', '--how', 'knn', '--k', '0'], 'equal to 1'),
    'learning rate': (['{data}', '--how', 'finetune', '--lr', 'nan'], 'lr must be a number above 0, got nan'),
    'other classes': (['{data}', '--test', '{other}'], 'have different classes'),
    'one class': (['{single}', '--test', '{single}'], 'single class'),
}


@pytest.mark.parametrize('case', MISTAKES)
def test_mistakes_are_one_line(run, pets, weights, case):
    words, message = MISTAKES[case]
    places = {
        'data': pets('data', 3),
        'other': pets('other', 3, ('cat', 'cow')),
        'single': pets('single', 3, ('cat',)),
    }
    code, out, said = run('probe', *[word.format(**places) for word in words], '-w', weights)
    assert (code, out) == (2, '')
    assert message in ' '.join(said.split())
    assert 'Traceback' not in said
