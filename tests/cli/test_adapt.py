"""``clipdense adapt``, and ``--adapter`` of the commands that use its file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.cli import main
from clipdense.utils.json_files import read_json

pytestmark = [pytest.mark.usefixtures('apart'), pytest.mark.filterwarnings('ignore:the best')]


@pytest.fixture
def run(capsys):
    def call(*arguments) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out + captured.err

    return call


@pytest.fixture
def pets(tmp_path):
    rng = np.random.default_rng(0)
    for name, color in {'cat': 30, 'dog': 220}.items():
        (tmp_path / 'pets' / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.clip(color + rng.normal(0, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / f'pets/{name}/{number}.png')
    return tmp_path / 'pets'


def test_from_labels_to_results(run, pets, weights):
    code, said = run('adapt', pets, '-w', weights, '--shots', 1, '--validation', 'rest', '--no-cache')
    assert code == 0, said
    assert 'adapter.safetensors: 2 keys of 2 classes (1 each), from images; alpha' in said
    image = pets / 'dog/2.png'
    use = ('-c', 'cat, dog', '-w', weights, '--adapter', 'adapter.safetensors', '--no-cache')
    code, said = run('classify', image, *use, '--out', 'out.json')
    assert code == 0, said
    adapted = read_json('out.json')
    run('classify', image, *use[:4], '--no-cache', '--out', 'plain.json')
    assert adapted != read_json('plain.json')
    with pytest.warns(UserWarning, match=r'embeddings of images and is used for pixels \(maskclip\)'):
        code, said = run('segment', image, *use)
    assert code == 0, said


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere'], 'nowhere does not exist'),
        (
            ['pets', '--method', 'lseg'],
            "method 'lseg' makes no adapter; methods that do: clip_adapter, tip, tip_f",
        ),
        (['pets', '--method', 'tipp'], "method 'tipp' is unknown"),
        (['pets', '-o', 'alfa=1'], "method 'tip' has no option 'alfa'"),
        (['pets', '-o', 'beta=0'], 'beta must be above 0, got 0'),
        (['pets', '-o', 'alpha=many'], "alpha must be a finite number, got 'many'"),
        (['pets', '--labels', 'points'], "labels must be one of images, masks, boxes, got 'points'"),
        (['pets', '--validation', 'pets'], 'images are both examples and validation images'),
        (['pets', '--validation', 'rest'], "validation='rest' needs shots"),
        (['pets', '--dense-method', 'maskclip'], 'the examples are images: remove --dense-method'),
        (['pets', '--out', 'a.pt'], 'adapters are written as safetensors; use a.safetensors'),
    ],
)
def test_refused(run, pets, weights, arguments, message):
    code, said = run('adapt', *arguments, '-w', weights, '--no-cache')
    assert code == 2
    assert message in said
    assert len(said.strip().splitlines()) == 1


def test_an_existing_file_is_kept(run, pets, weights, tmp_path):
    (tmp_path / 'adapter.safetensors').write_text('mine')
    code, said = run('adapt', pets, '-w', weights)
    assert (code, (tmp_path / 'adapter.safetensors').read_text()) == (2, 'mine')
    assert 'adapter.safetensors exists' in said


def test_not_an_adapter(run, pets, weights):
    code, said = run('classify', pets / 'cat/0.png', '-c', 'cat, dog', '-w', weights, '--adapter', weights)
    assert code == 2
    assert 'not an adapter: use a file written by `clipdense adapt`' in said


class TestTipCache:
    """``clipdense embed tip-cache``, which writes official files of Tip-Adapter as an adapter."""

    @pytest.fixture
    def official(self, tmp_path):
        torch.save(torch.randn(16, 4).half(), tmp_path / 'keys.pt')
        torch.save(torch.eye(2).repeat_interleave(2, 0).half(), tmp_path / 'values.pt')
        torch.save(torch.nn.Parameter(torch.randn(4, 16)), tmp_path / 'best_F.pt')
        return ['keys.pt', 'values.pt']

    @pytest.mark.parametrize('extra', [(), ('--trained', 'best_F.pt', '--alpha', 2)])
    def test_it_is_used(self, run, official, weights, pets, extra):
        given = ('-c', 'cat, dog', '-w', weights, '--out', 'tip.safetensors', *extra)
        code, said = run('embed', 'tip-cache', *official, *given)
        assert (code, 'tip.safetensors: 4 keys of 2 classes (2 each)' in said) == (0, True), said
        use = ('-c', 'cat, dog', '-w', weights, '--adapter', 'tip.safetensors', '--no-cache')
        code, said = run('classify', pets / 'cat/0.png', *use)
        assert code == 0, said

    @pytest.mark.parametrize(
        ('arguments', 'message'),
        [
            ((), 'give the class names in the order of the values'),
            (('-c', 'cat, dog, cow'), 'has 2 classes, but 3 class names are given'),
            (('-c', 'cat, dog', '--out', 'keys.pt', '--overwrite'), 'keys.pt is an input'),
            (('-c', 'cat, dog', '--beta', 0), 'beta must be above 0'),
            (('-c', 'cat, dog', '--trained', 'nothing.pt'), 'nothing.pt does not exist'),
        ],
    )
    def test_refused(self, run, official, weights, arguments, message):
        code, said = run('embed', 'tip-cache', *official, '-w', weights, *arguments)
        assert (code, message in said) == (2, True), said
