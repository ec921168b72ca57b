"""The layer rule and the budgets, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'clipdense'
FILES = sorted(path for path in PACKAGE.rglob('*.py'))

# A module imports only from lower rows or from its own folder; folders of one row do not import one another.
ROWS = [
    ['registry', 'config', 'structures', 'utils', 'mmcv_ops'],
    ['layers', 'vocab', 'weights'],
    ['clip'],
    ['data'],
    ['tasks', 'evaluation'],
    ['engine'],
    ['methods'],
    ['inference'],
    ['benchmarks'],
    ['demo'],
    ['cli'],
]
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
# Within row 0 the order is: utils, then structures, registry, mmcv_ops and config.
MAY_IMPORT_PEER = {(room, 'utils') for room in ('registry', 'config', 'structures', 'mmcv_ops')}
MAY_IMPORT_PEER |= {('config', 'registry'), ('config', 'mmcv_ops')}  # which names a config may use
MAY_IMPORT_PEER |= {('evaluation', 'tasks')}  # an evaluator asks any model of its task
DETECTION_ONLY = {'mmdet', 'mmcv'}
DETECTION_ROOMS = (
    'mmcv_ops',
    'methods/vild',
    'methods/glip',
    'data/detection',
    'evaluation/detection',
    'inference/detector',
)
MAX_ARGUMENTS = 10
METHOD_FOLDERS = {path.parent.name for path in (PACKAGE / 'methods').glob('*/__init__.py')}


def rooms_imported(path: Path) -> set[tuple[str, ...]]:
    """Absolute dotted names of everything that a file imports, inside functions too, as tuples."""
    package = ('clipdense', *path.relative_to(PACKAGE).with_suffix('').parts)
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {tuple(alias.name.split('.')) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level] if node.level else ()
            stem = (*base, *(node.module.split('.') if node.module else ()))
            names |= {(*stem, alias.name) for alias in node.names}
    return names


def room_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_layers(path):
    room = room_of(path)
    if room in ('__init__', '__main__'):
        return
    assert room in ROW, f'{room} has no row: add it to the table in DESIGN order'
    for name in rooms_imported(path):
        if name[0] != 'clipdense' or len(name) < 2 or name[1] == room:
            continue
        other = name[1]
        if other not in ROW:  # clipdense.__version__ and the like
            continue
        lower = ROW[other] < ROW[room] or (room, other) in MAY_IMPORT_PEER
        assert lower, f'{room} (row {ROW[room]}) imports {".".join(name)} (row {ROW[other]})'


@pytest.mark.parametrize(
    'path',
    sorted((PACKAGE / 'methods').glob('*/**/*.py')),
    ids=lambda path: str(path.relative_to(PACKAGE / 'methods')),
)
def test_a_method_never_imports_another(path):
    own = path.relative_to(PACKAGE / 'methods').parts[0]
    for name in rooms_imported(path):
        if name[:2] == ('clipdense', 'methods') and len(name) > 2 and name[2] in METHOD_FOLDERS:
            assert name[2] == own, f'{own} imports {".".join(name)}'


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_mmdet_stays_in_its_rooms(path):
    where = str(path.relative_to(PACKAGE).with_suffix(''))
    if where.startswith(DETECTION_ROOMS):
        return
    heavy = {name[0] for name in rooms_imported(path)} & DETECTION_ONLY
    assert not heavy, f'{where} imports {heavy}'


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_budgets(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 500, 'file over 500 lines'
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            assert length <= 70, f'{node.name} has {length} lines'
            if node.name == '__init__':
                arguments = [*node.args.posonlyargs, *node.args.args[1:], *node.args.kwonlyargs]
                assert len(arguments) <= MAX_ARGUMENTS, f'a constructor takes {len(arguments)} arguments'


def test_import_is_light():
    """``import clipdense`` and the vocabulary need no torch."""
    code = (
        'import sys, clipdense, clipdense.vocab.vocabulary, clipdense.vocab.tokenizer;'
        "heavy = {'torch', 'mmengine', 'transformers', 'open_clip', 'cv2'} & set(sys.modules);"
        'print(heavy); sys.exit(bool(heavy))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_command_line_is_light():
    """``clipdense --help`` must not import torch."""
    code = "import sys, clipdense.cli; sys.exit(bool({'torch', 'mmengine'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('room', ['inference', 'cli', 'weights', 'engine', 'benchmarks', 'demo'])
def test_no_method_is_named_outside_its_folder(room):
    """Loading, building, converting and the commands read the table of methods."""
    for path in sorted((PACKAGE / room).rglob('*.py')):
        named = {
            name[2] for name in rooms_imported(path) if name[:2] == ('clipdense', 'methods') and len(name) > 2
        }
        assert not named & METHOD_FOLDERS, f'{path.relative_to(PACKAGE)} imports methods.{named}'


# Writes a tiny CLIP (the byte pairs are OpenAI's) to the file that it is given.
WRITE_TINY_CLIP = """
import sys
from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
text = TextSize(width=32, layers=1, num_heads=2, mlp_width=32, embed_dim=16)
image = VitSize(image_size=64, patch_size=16, width=32, layers=2, num_heads=2, mlp_width=32, embed_dim=16)
save(build_clip(ClipSize(image, text)), sys.argv[1])
"""
USES = {
    'a mask': (
        'from clipdense.inference.segmenter import Segmenter',
        "Segmenter.from_pretrained(file, cache=False)(image, ['cat', 'dog'])",
    ),
    'a label': (
        'from clipdense.inference.classifier import Classifier',
        "Classifier.from_pretrained(file, cache=False)(image, ['cat', 'dog'])",
    ),
}
NOT_AT_INFERENCE = {
    'clipdense.engine',
    'mmcv',
    'mmdet',
    'mmengine.model',
    'mmengine.optim',
    'mmengine.runner',
    'timm',
    'torch._dynamo',
    'torchvision',
    'transformers',
    'webdataset',
}


@pytest.fixture(scope='module')
def tiny_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp('clip') / 'tiny.safetensors'
    subprocess.run([sys.executable, '-c', WRITE_TINY_CLIP, path], check=True)
    return path


@pytest.mark.parametrize('use', USES)
def test_the_first_result_is_light(use, tiny_clip):
    """Using a CLIP imports torch, Pillow and numpy, but nothing that is for training."""
    imported, call = USES[use]
    code = (
        f'import sys; import numpy; {imported}; file = sys.argv[1];'
        'image = numpy.zeros((64, 64, 3), numpy.uint8);'
        f'{call};'
        f'heavy = {NOT_AT_INFERENCE} & set(sys.modules); print(heavy); sys.exit(bool(heavy))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, tiny_clip], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    'module',
    ['groupvit.segmenter', 'lseg.segmenter', 'dense_clip.segmenter', 'vild.detector', 'glip.detector'],
)
def test_inference_never_imports_the_engine(module):
    code = f"import sys, clipdense.methods.{module}; sys.exit('clipdense.engine' in sys.modules)"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_public_names_can_be_imported():
    import clipdense

    assert all(getattr(clipdense, name) is not None for name in clipdense.__all__)
    assert set(clipdense.__all__) <= set(dir(clipdense))
