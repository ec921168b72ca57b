"""Methods in a package of somebody else: found, loaded, used and converted without a change in clipdense.

The package is ``examples/own_package``, copied outside the repository and installed there as pip would.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import clipdense
from clipdense.cli import main
from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.inference.convert import convert
from clipdense.methods import get_method, list_methods, reload_methods
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError

SOURCE = Path(__file__).parents[1] / 'examples' / 'own_package'
NAMES = {'smoothed', 'colors', 'grid', 'synonyms'}
TEXT = TextSize(width=16, layers=1, num_heads=2, mlp_width=16, embed_dim=8)
VIT = VitSize(image_size=16, patch_size=4, width=16, layers=2, num_heads=2, mlp_width=16, embed_dim=8)
CLASSES = ['sky', 'car']


def entry_points() -> str:
    """What ``setup.py`` declares, as pip writes it."""
    tree = ast.parse((SOURCE / 'setup.py').read_text())
    (table,) = (
        ast.literal_eval(word.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == 'entry_points'
    )
    return '\n'.join(f'[{group}]\n' + '\n'.join(lines) for group, lines in table.items()) + '\n'


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """A folder as ``pip install --target`` leaves it."""
    folder = tmp_path_factory.mktemp('site')
    shutil.copytree(SOURCE / 'toymethods', folder / 'toymethods')
    info = folder / 'toymethods-0.1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: toymethods\nVersion: 0.1.0\n')
    (info / 'entry_points.txt').write_text(entry_points())
    return folder


@pytest.fixture(autouse=True)
def _installed(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    reload_methods()
    yield
    for name in [name for name in sys.modules if name.split('.')[0] == 'toymethods']:
        del sys.modules[name]
    monkeypatch.undo()
    reload_methods()


@pytest.fixture
def clip_file(tmp_path):
    torch.manual_seed(0)
    save(build_clip(ClipSize(VIT, TEXT)), tmp_path / 'clip.safetensors')
    return tmp_path / 'clip.safetensors'


@pytest.fixture
def colors_file(tmp_path):
    """Weights in the layout of the package, written without its code."""
    torch.manual_seed(1)
    text = build_clip(ClipSize(VIT, TEXT)).text
    tensors = {f'text.{name}': tensor.contiguous() for name, tensor in text.state_dict().items()}
    tensors |= {'colors.weight': torch.randn(8, 3, 1, 1), 'colors.bias': torch.randn(8)}
    save_file(tensors, tmp_path / 'colors.safetensors', {'text_size': json.dumps(asdict(TEXT))})
    return tmp_path / 'colors.safetensors'


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'photo.png')
    return tmp_path / 'photo.png'


def run(capsys, *arguments) -> str:
    """Standard output of a command that must succeed."""
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert left.value.code in (0, None), captured.err
    return captured.out


def test_the_table_lists_them(capsys):
    assert {method.name for method in list_methods()} >= NAMES
    assert {line.split()[0] for line in run(capsys, 'methods').splitlines()} >= NAMES
    assert 'radius=1' in run(capsys, 'methods', 'smoothed')
    listed = json.loads(run(capsys, 'models', '--json'))['methods']
    assert {method['name'] for method in listed} >= NAMES


def test_nothing_of_them_stays_behind(monkeypatch, site):
    monkeypatch.setattr(sys, 'path', [entry for entry in sys.path if entry != str(site)])
    reload_methods()
    assert not {method.name for method in list_methods()} & NAMES


class TestTrainingFree:
    def test_in_python(self, clip_file, photo):
        found = clipdense.Segmenter.from_pretrained(clip_file, 'smoothed', cache=False)(photo, CLASSES)
        assert found.mask.shape == (24, 32)
        assert set(np.unique(found.mask)) <= {0, 1}

    def test_options_reach_it(self, clip_file):
        made = clipdense.Segmenter.from_pretrained(clip_file, 'smoothed', method_options={'radius': 2})
        assert made.model.radius == 2
        with pytest.raises(InputError, match=r"'smoothed' has no option 'radios'; its options: radius=1"):
            clipdense.Segmenter.from_pretrained(clip_file, 'smoothed', method_options={'radios': 2})

    def test_on_the_command_line(self, capsys, tmp_path, clip_file, photo):
        out = tmp_path / 'out'
        arguments = (
            '-c',
            'sky, car',
            '-w',
            clip_file,
            '--method',
            'smoothed',
            '-o',
            'radius=2',
            '--out',
            out,
        )
        run(capsys, 'segment', photo, *arguments, '--no-cache')
        assert Image.open(out / 'photo_mask.png').size == (32, 24)


class TestTrained:
    def test_its_layout_is_recognized(self, colors_file, photo):
        model = clipdense.load(colors_file, device='cpu')
        assert type(model).__name__ == 'Colors'
        found = clipdense.Segmenter.from_pretrained(colors_file, cache=False)(photo, CLASSES)
        assert found.mask.shape == (24, 32)

    def test_it_learns(self, colors_file):
        segmenter = clipdense.Segmenter.from_pretrained(colors_file, cache=False, device='cpu')
        segmenter.model.set_vocabulary(segmenter.set_vocabulary(CLASSES), segmenter.embeddings)
        images = torch.rand(2, 3, 8, 8)
        samples = [SegmentationSample('', (8, 8), torch.zeros(8, 8, dtype=torch.int64)) for _ in images]
        model, losses = segmenter.model.train(), []
        optimizer = torch.optim.SGD(model.colors.parameters(), 0.1)
        for _ in range(5):
            losses.append(model(images, samples, mode='loss')['loss'])
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0]

    def test_it_is_converted(self, capsys, tmp_path, colors_file):
        again = convert(colors_file, tmp_path / 'again.safetensors', 'colors')
        before, after = (clipdense.load(file, device='cpu').state_dict() for file in (colors_file, again))
        assert all(torch.equal(before[name], after[name]) for name in before)
        run(capsys, 'convert', colors_file, tmp_path / 'third.safetensors', '--to', 'colors')
        with pytest.raises(
            InputError, match=r"a colors model, which the layout 'openclip' does not support: .*colors"
        ):
            convert(colors_file, tmp_path / 'x.safetensors', 'openclip')

    @pytest.mark.parametrize('method', ['sclip', 'smoothed'])
    def test_it_takes_no_other_method(self, colors_file, method):
        with pytest.raises(InputError, match='is a trained colors: remove the method'):
            clipdense.Segmenter.from_pretrained(colors_file, method)


class TestClassEmbeddings:
    @pytest.fixture
    def file(self, tmp_path):
        save_file({'synonyms.weight': torch.full((8,), 3.0)}, tmp_path / 'synonyms.safetensors')
        return tmp_path / 'synonyms.safetensors'

    def test_in_python(self, clip_file, file, photo):
        plain = clipdense.Classifier.from_pretrained(clip_file, cache=False)
        moved = clipdense.Classifier.from_pretrained(clip_file, embedder=file, cache=False)
        for one in (plain, moved):
            one(photo, CLASSES)
        offset = torch.nn.functional.normalize(plain.embeddings.queries + 3.0, dim=-1)
        torch.testing.assert_close(moved.embeddings.queries, offset)

    @pytest.mark.parametrize('command', ['segment', 'classify'])
    def test_on_the_command_line(self, capsys, tmp_path, clip_file, file, photo, command):
        out = () if command == 'classify' else ('--out', tmp_path / 'out')
        arguments = ('-c', 'sky, car', '-w', clip_file, '--embedder', file, '--no-cache')
        assert 'photo' in run(capsys, command, photo, *arguments, *out)


class TestDetector:
    def test_in_python(self, clip_file, photo):
        found = clipdense.Detector.from_pretrained(clip_file, 'grid', cache=False)(photo, CLASSES)
        assert found.xyxy.shape[1] == 4
        assert found.xyxy.max() <= 32
        assert set(found.class_ids) <= {0, 1}

    def test_on_the_command_line(self, capsys, tmp_path, clip_file, photo):
        out = tmp_path / 'out'
        arguments = ('-c', 'sky, car', '-w', clip_file, '--method', 'grid', '-o', 'cells=3', '--out', out)
        run(capsys, 'detect', photo, *arguments, '--score-threshold', '0', '--no-cache')
        assert json.loads((out / 'detections.json').read_text())


def test_bench_takes_them(capsys, tmp_path, clip_file, photo):
    """A folder in PASCAL VOC's layout, one image."""
    data = tmp_path / 'voc'
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (data / folder).mkdir(parents=True)
    Image.open(photo).save(data / 'JPEGImages' / 'a.jpg')
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(data / 'SegmentationClass' / 'a.png')
    (data / 'ImageSets' / 'Segmentation' / 'val.txt').write_text('a\n')
    (data / 'classes.txt').write_text('sky\ncar\n')
    arguments = (
        '--methods',
        'smoothed,vanilla',
        '--datasets',
        data,
        '-w',
        clip_file,
        '--out',
        tmp_path / 'b',
    )
    printed = run(capsys, 'bench', *arguments)
    assert 'smoothed on voc: mIoU' in printed


def test_the_guide_shows_the_example_as_it_is():
    guide = (SOURCE.parents[1] / 'CONTRIBUTING.md').read_text('utf-8')
    shown = re.findall(r'```python\n(.*?)\n```', guide, re.DOTALL)
    files = ('toymethods/smoothed/method.py', 'toymethods/smoothed/segmenter.py', 'setup.py')
    assert [text.strip() for text in shown[:3]] == [
        (SOURCE / file).read_text('utf-8').strip() for file in files
    ]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'name': 'sclip'}, "two methods are called 'sclip'"),
        ({'task': 'singing'}, "unknown task 'singing'"),
    ],
    ids=['name', 'task'],
)
def test_a_faulty_description_is_refused(site, tmp_path, monkeypatch, change, message):
    page = tmp_path / 'faulty.py'
    given = {'name': 'faulty', 'task': 'segmentation', 'summary': '', **change}
    page.write_text(f'from clipdense.methods import Method\n\nMETHOD = Method(**{given!r})\n')
    info = tmp_path / 'faulty-1.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: faulty\nVersion: 1\n')
    (info / 'entry_points.txt').write_text('[clipdense.methods]\nfaulty = faulty:METHOD\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop('faulty', None)
    reload_methods()
    if 'task' in change:  # the package is left out, the others stay
        with pytest.warns(UserWarning, match=message):
            assert get_method('sclip').name == 'sclip'
    else:
        with pytest.raises(InputError, match=message):
            list_methods()
