"""``clipdense vocab``."""

from __future__ import annotations

import json

import pytest

from clipdense.cli.app import main
from clipdense.vocab.vocabulary import Vocabulary

TEXT = """classes:
  - car
  - {name: traffic light, synonyms: [stop light], threshold: 0.4}
background: [sky, wall]
negatives: [billboard]
templates: imagenet_scene
"""


def run(capsys, *arguments):
    """Exit status, output and errors of a command."""
    try:
        main(['vocab', *map(str, arguments)])
        status = 0
    except SystemExit as end:
        status = end.code or 0
    return (status, *capsys.readouterr())


@pytest.fixture
def street(tmp_path):
    (tmp_path / 'street.yaml').write_text(TEXT)
    return tmp_path / 'street.yaml'


def test_show(capsys, street):
    status, out, _ = run(capsys, 'show', street)
    assert status == 0
    assert out.splitlines() == [
        '    0  background, sky, wall (background)',
        '    1  car',
        '    2  traffic light, stop light (threshold 0.4)',
        '    -  billboard (negative)',
        'templates: imagenet_scene',
        '3 classes, asked by 5 names, 1 negatives',
    ]
    _, out, _ = run(capsys, 'show', street, '--json')
    assert json.loads(out) == Vocabulary.from_file(street).to_dict()


@pytest.mark.parametrize(
    ('text', 'status', 'said'),
    [
        ('cat\ndog\n', 0, ''),
        ('0 cat\n1 dog\n', 1, 'are read as class ids'),
        ('a, x\nb, x\n', 1, 'belongs to several classes'),
        ('a\na\n', 2, 'listed twice'),
    ],
)
def test_validate(capsys, tmp_path, text, status, said):
    (tmp_path / 'a.txt').write_text(text)
    found, _, errors = run(capsys, 'validate', tmp_path / 'a.txt')
    assert found == status
    assert said in errors


def test_convert(capsys, street, tmp_path):
    status, _, _ = run(capsys, 'convert', street, tmp_path / 'a.json')
    assert status == 0
    assert Vocabulary.from_file(tmp_path / 'a.json') == Vocabulary.from_file(street)
    for out, said in (
        (street, 'is an input'),
        (tmp_path / 'a.json', 'exists'),
        (tmp_path / 'a.csv', '.yaml'),
    ):
        status, _, errors = run(capsys, 'convert', street, out)
        assert status == 2
        assert said in errors


def test_templates_twice(capsys, street, tmp_path):
    (tmp_path / 'a.png').write_bytes(b'')
    with pytest.raises(SystemExit, match='2'):
        main(['classify', str(tmp_path / 'a.png'), '--vocab', str(street), '--templates', 'simple'])
    assert 'has templates of its own' in capsys.readouterr().err
    with pytest.raises(SystemExit, match='2'):
        main(
            ['embed', '--vocab', str(street), '--out', str(tmp_path / 'a.safetensors'), '--templates', 'name']
        )
    capsys.readouterr()
