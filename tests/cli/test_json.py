"""``--json``: standard output is one JSON document, whatever is logged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from clipdense.cli.app import app
from clipdense.cli.output import json_only, print_json

from .data_sets import folders, pairs, photo, run, voc

pytestmark = pytest.mark.usefixtures('apart')

TABLE = {
    'classify': 'classify photos -c sky,road -w WEIGHTS',
    'compare': 'compare photos/a.jpg -c sky,road -w WEIGHTS --method maskclip --method naclip',
    'search': 'search photos sky -w WEIGHTS',
    'check-data': 'check-data masks',
    'test': 'test own.py WEIGHTS',
    'bench': 'bench --methods vanilla --datasets voc -w WEIGHTS',
    'reproduce': 'reproduce vanilla voc -w WEIGHTS',
    'probe': 'probe kinds -w WEIGHTS --how knn',
    'models': 'models',
    'methods': 'methods',
    'configs': 'configs lseg',
    'doctor': 'doctor',
    'vocab show': 'vocab show masks/classes.txt',
}
CONFIG = """
from clipdense.data.segmentation.pairs import SegmentationPairs
from clipdense.engine.hooks import VocabularyHook
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.dense_clip.segmenter import DenseCLIP

model = dict(type=DenseCLIP, clip='embedded', method='maskclip')
test_dataloader = dict(batch_size=1, num_workers=0, dataset=dict(type=SegmentationPairs, root='masks'))
test_cfg = dict()
test_evaluator = dict(type=MeanIoU)
custom_hooks = dict(vocabulary=dict(type=VocabularyHook))
"""


def _commands(group: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    for key, command in getattr(group, 'commands', {}).items():
        yield f'{name} {key}'.strip(), command
        yield from _commands(command, f'{name} {key}'.strip())


def test_every_command_with_json_is_tried():
    found = [
        name
        for name, command in _commands(typer.main.get_command(app))
        if any(parameter.name == 'as_json' for parameter in command.params)
    ]
    assert sorted(found) == sorted(TABLE)


@pytest.mark.parametrize('name', TABLE)
def test_standard_output_is_json(capsys, weights, name):
    photo('photos/a.jpg'), photo('photos/b.jpg'), pairs('masks'), voc('voc'), folders('kinds')
    Path('own.py').write_text(CONFIG)
    status, out, err = run(capsys, *TABLE[name].replace('WEIGHTS', weights).split(), '--json')
    assert status in (0, 1), err
    assert json.loads(out)
    assert 'NaN' not in out


def test_numbers_that_json_does_not_have(capsys):
    with json_only():
        print('a log line')
        print_json({'a': float('nan'), 'b': [float('inf'), 1.5], 'c': 'ü'})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {'a': None, 'b': [None, 1.5], 'c': 'ü'}
    assert captured.err == 'a log line\n'
