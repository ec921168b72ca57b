"""An output that exists is not replaced without ``--overwrite``, and an input never."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from clipdense.cli.app import app

from .data_sets import folders, pairs, photo, run

pytestmark = pytest.mark.usefixtures('apart')

NAMES = '-c sky,road'
TABLE = {  # command -> arguments, and an output that exists
    'classify': (f'photos {NAMES} -w WEIGHTS --out there', 'there'),
    'segment': (f'photos {NAMES} -w WEIGHTS --out out', 'out/a_mask.png'),
    'detect': (f'photos {NAMES} -w WEIGHTS --out out', 'out/names.json'),
    'caption': ('photos -w WEIGHTS --out there.csv', 'there.csv'),
    'answer': ('photos -q what -w WEIGHTS --out there.csv', 'there.csv'),
    'label': (f'photos {NAMES} -w WEIGHTS --to coco --out out', 'out/any'),
    'compare': (
        f'photos/a.jpg {NAMES} -w WEIGHTS --method maskclip --method naclip --out out',
        'out/a_comparison.png',
    ),
    'search': ('photos sky -w WEIGHTS --out there.png', 'there.png'),
    'quickstart': ('--tour none --out out', 'out/photographs.jpg'),
    'adapt': ('kinds -w WEIGHTS --out there.safetensors', 'there.safetensors'),
    'scenes': ('out --train 1 --val 1', 'out/manifest.json'),
    'nouns': ('shards out', 'out/any.tar'),
    'init': ('lseg masks --out there.py -w WEIGHTS', 'there.py'),
    'reproduce': ('sclip masks -w WEIGHTS --out there.json', 'there.json'),
    'convert': ('WEIGHTS there.safetensors', 'there.safetensors'),
    'export': ('WEIGHTS there.onnx', 'there.onnx'),
    'vocab convert': ('masks/classes.txt there.yaml', 'there.yaml'),
    'embed': (f'{NAMES} -w WEIGHTS --out there.safetensors', 'there.safetensors'),
    'embed prompts': ('WEIGHTS -w WEIGHTS --out there.safetensors', 'there.safetensors'),
    'embed tip-cache': (f'k.pt v.pt {NAMES} -w WEIGHTS --out there.safetensors', 'there.safetensors'),
    'embed detpro': (f'k.pt {NAMES} -w WEIGHTS --out there.safetensors', 'there.safetensors'),
    'embed region-features': ('store a.json --out there.safetensors', 'there.safetensors'),
}
RUNS = {  # train refuses the checkpoints of another run, see tests/engine/test_work_dir.py
    'train',
}
INPUTS = {  # outputs that would replace an input
    'nouns': 'shards shards',
    'caption': 'shards shards -w WEIGHTS',
    'label': f'photos {NAMES} -w WEIGHTS --to coco --out photos',
    'convert': 'WEIGHTS WEIGHTS',
    'vocab convert': 'own.yaml own.yaml',
    'reproduce': 'sclip masks -w WEIGHTS --out WEIGHTS',
    'embed prompts': 'WEIGHTS -w WEIGHTS --out WEIGHTS',
    'embed': f'{NAMES} -w WEIGHTS --out WEIGHTS',
    'adapt': 'kinds -w WEIGHTS --out WEIGHTS',
}

FOLDERS = {  # commands without --overwrite that write into a folder or a file
    'caption': 'shards out -w WEIGHTS',
    'filter': 'shards out --min-size 1',
    'pseudo-label': 'shards out --teacher WEIGHTS',
    'search': 'photos sky -w WEIGHTS --index there.safetensors',
    'bench': '--methods sclip --datasets masks -w WEIGHTS --out out',
    'embed images': 'photos out -w WEIGHTS',
    'embed regions': 'vild/vild_scenes WEIGHTS out',
    'train': 'lseg/lseg_scenes --work-dir out',
    'test': 'lseg/lseg_scenes WEIGHTS --work-dir out',
}
IMPOSSIBLE = ('photos/a.jpg/out', '/proc/self/out', 'n' * 300)  # folders that cannot be made


def _commands(group: Any, name: str = '') -> Iterator[tuple[str, Any]]:
    context = typer.Context(group)
    for key in group.list_commands(context) if hasattr(group, 'list_commands') else ():
        command = group.get_command(context, key)
        yield f'{name} {key}'.strip(), command
        yield from _commands(command, f'{name} {key}'.strip())


def test_every_command_with_overwrite_is_tried():
    found = {
        name
        for name, command in _commands(typer.main.get_command(app))
        if any(parameter.name == 'overwrite' for parameter in command.params)
    }
    assert found - RUNS == set(TABLE)


@pytest.fixture
def place(weights):
    """Inputs of all commands, and weights of their own."""
    photo('photos/a.jpg'), pairs('masks'), folders('kinds')
    Path('shards').mkdir()
    for file in ('shards/0.tar', 'k.pt', 'v.pt', 'a.json'):
        Path(file).write_text('input')
    Path('own.yaml').write_text('[sky, road]')
    shutil.copy(weights, 'own.safetensors')


@pytest.mark.parametrize('name', TABLE)
def test_an_output_that_exists(capsys, place, name):
    arguments, output = TABLE[name]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text('kept')
    status, _, err = run(capsys, *name.split(), *arguments.replace('WEIGHTS', 'own.safetensors').split())
    assert (status, Path(output).read_text()) == (2, 'kept'), err
    assert 'exist' in err or 'is not empty' in err or 'already' in err, err


@pytest.mark.parametrize('name', INPUTS)
def test_an_input_is_never_replaced(capsys, place, name):
    before = {path: path.read_bytes() for path in Path().rglob('*') if path.is_file()}
    arguments = INPUTS[name].replace('WEIGHTS', 'own.safetensors').split()
    status, _, err = run(capsys, *name.split(), *arguments, '--overwrite')
    assert status == 2, err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize('folder', IMPOSSIBLE, ids=['below a file', 'no files', 'too long'])
@pytest.mark.parametrize(
    ('name', 'arguments'), [*FOLDERS.items(), *((name, row[0]) for name, row in TABLE.items())]
)
def test_an_output_that_cannot_be_written_is_refused_first(capsys, place, name, arguments, folder):
    """Before the weights are read, which are damaged here, and before any image is."""
    Path('own.safetensors').write_text('damaged')
    arguments = re.sub(r'(?<!-)\b(out|there(\.\w+)?)\b', rf'{folder}/\1', arguments)
    status, _, err = run(capsys, *name.split(), *arguments.replace('WEIGHTS', 'own.safetensors').split())
    assert (status, 'damaged' in err or 'own.safetensors' in err) == (2, False), err
    assert folder[:20] in err, err
