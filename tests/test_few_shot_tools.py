"""The few-shot table of every method on a tiny CLIP, and the folders that it is made from."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.data.classification.few_shot import FewShotImages
from clipdense.evaluation.base_to_new import FewShotTable

sys.path.insert(0, str(Path(__file__).parents[1] / 'tools'))

import few_shot
import few_shot_data
import few_shot_orderings

SIZE = ClipSize(VitSize(8, 4, 16, 2, 2, 16, 16), TextSize(16, 2, 2, 16, 16))


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp('clip') / 'clip.safetensors'
    save(build_clip(SIZE), path)
    return path


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for part, count in {'train': 4, 'val': 2, 'test': 2}.items():
        for name in ('ant', 'bee', 'cat', 'dog'):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (9, 8, 3), np.uint8)).save(
                    root / part / name / f'{number}.png'
                )
    return root


@pytest.mark.filterwarnings('ignore')
def test_the_table_has_every_method(weights, data, tmp_path):
    given = [str(data), '--weights', str(weights), '--shots', '1', '2', '--seeds', '1', '2', '--out']
    epochs = [f'--{name}-epochs=1' for name in ('coop', 'cocoop', 'maple', 'adapter')]
    hits = ['--hits', str(tmp_path / 'hits.npz')]
    table = few_shot.run(few_shot.arguments([*given, str(tmp_path / 'out.json'), *hits, *epochs]))
    assert [(row.method, row.shots, len(row.results)) for row in table.rows][:3] == [
        ('zero-shot', 0, 1),
        ('CoOp', 1, 2),
        ('CoOp', 2, 2),
    ]
    assert len(table.rows) == 1 + 2 * 6
    assert FewShotTable.from_json((tmp_path / 'out.json').read_text()) == table
    assert np.load(tmp_path / 'hits.npz')['CoOp|2|base'].mean() == pytest.approx(table.rows[2].base.mean)
    zero_shot = table.rows[0].new.mean
    assert all(
        row.new.mean == zero_shot for row in table.rows if row.method.startswith('Tip')
    )  # without keys


@pytest.mark.filterwarnings('ignore')
def test_all_classes(weights, data):
    given = [
        str(data),
        '--weights',
        str(weights),
        '--shots',
        '1',
        '--seeds',
        '1',
        '--classes',
        'all',
        '--methods',
    ]
    table = few_shot.run(few_shot.arguments([*given, 'zero_shot', 'tip']))
    assert all(row.new is None for row in table.rows)
    assert ' | - | ' in table.markdown()


def test_rates_are_chosen_on_validation_images(weights, data):
    options = [
        '--weights',
        str(weights),
        '--methods',
        'coop',
        '--shots',
        '1',
        '--seeds',
        '1',
        '--coop-lr',
        '1',
    ]
    for part in ('test', 'val'):
        given = [str(data), '--part', part, *options, '--n-ctx', '3', '--coop-epochs', '2']
        (row,) = few_shot.run(few_shot.arguments(given)).rows
        assert 0 <= row.base.mean <= 1


def test_orderings_by_hand(tmp_path, capsys):
    """Base: 3 of 4 against 1 of 4 for both seeds; per image 1, 1, 0, 0, so 0.5 and sqrt(1 / 3 / 4)."""
    assert few_shot_orderings.difference(
        np.array([[1, 1, 1, 0]] * 2, bool), np.array([[0, 0, 1, 0]], bool)
    ) == pytest.approx((0.5, (1 / 3 / 4) ** 0.5))
    seeds = np.array([[1, 1], [0, 0]], bool)  # by seed 1 and 0, by image 0.5 and 0.5
    assert few_shot_orderings.difference(seeds, np.zeros((1, 2), bool)) == pytest.approx((0.5, 0.5))
    hits = {'zero-shot|0|base': np.zeros((1, 90), bool), 'CoOp|1|base': np.ones((2, 90), bool)}
    np.savez(tmp_path / 'a.npz', **hits)
    np.savez(tmp_path / 'b.npz', **{'zero-shot|0|new': np.zeros((1, 9)), 'CoOp|1|new': np.zeros((2, 9))})
    few_shot_orderings.main([str(tmp_path / 'a.npz'), str(tmp_path / 'b.npz')])
    shown = capsys.readouterr().out
    assert '| CoOp > zero-shot on base (arXiv 2109.01134) | yes: +100.0 ± 0.0 |' in shown
    assert 'zero-shot > CoOp on new (arXiv 2203.05557) | unclear: +0.0 ± 0.0 |' in shown


def test_few_shots_come_first(weights, data):
    clip = few_shot.load(str(weights))
    four = few_shot.encode(clip, FewShotImages(data, shots=4, seed=1))
    one = few_shot.encode(clip, FewShotImages(data, shots=1, seed=1))
    assert four.first(1).labels.tolist() == one.labels.tolist()
    assert four.first(1).images.equal(one.images)


def test_scenes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(few_shot_data, 'PARTS', {'train': 2, 'val': 1, 'test': 1})
    few_shot_data.main(['scenes', str(tmp_path / 'out'), '--difficulty', 'easy'])
    assert 'train: 64 images' in capsys.readouterr().out
    assert len(FewShotImages(tmp_path / 'out', shots=1).class_names) == 32


@pytest.mark.parametrize(
    ('change', 'expected'),
    [('faded', (97, 104, 97)), ('negative', (231, 207, 231)), ('blurred', (24, 48, 24))],
)
def test_changes(change, expected):
    found = few_shot_data.CHANGES[change](Image.new('RGB', (8, 8), (24, 48, 24)))
    assert found.size == (8, 8)
    assert np.abs(np.array(found)[4, 4].astype(int) - expected).max() <= 1


def test_a_change_is_made_to_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(few_shot_data, 'PARTS', {'train': 1, 'val': 1, 'test': 1})
    for name, change in (('plain', []), ('changed', ['--change', 'negative'])):
        few_shot_data.main(['scenes', str(tmp_path / name), '--difficulty', 'easy', *change])
    for path in (tmp_path / 'plain').rglob('*.png'):
        other = tmp_path / 'changed' / path.relative_to(tmp_path / 'plain')
        assert np.array_equal(255 - np.array(Image.open(path)), np.array(Image.open(other)))


def test_crops_of_boxes(tmp_path):
    image = Image.new('RGB', (100, 80))
    assert few_shot_data.cropped(image, 10, 10, 60, 60).size == (60, 60)
    assert few_shot_data.cropped(image, 0, 0, 100, 80).size == (100, 80)
    assert few_shot_data.cropped(image, 10, 10, 20, 60) is None


def test_regions(tmp_path):
    for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
        (tmp_path / 'voc' / folder).mkdir(parents=True)
    mask = np.zeros((40, 60), np.uint8)
    mask[5:35, 5:30] = 1
    mask[0:4, 50:54] = 1  # a smaller region of the class
    for part in ('train', 'val'):
        Image.fromarray(mask).save(tmp_path / f'voc/SegmentationClass/{part}.png')
        Image.new('RGB', (60, 40)).save(tmp_path / f'voc/JPEGImages/{part}.png')
        (tmp_path / f'voc/ImageSets/Segmentation/{part}.txt').write_text(f'{part}\n')
    (tmp_path / 'voc/classes.txt').write_text('wall\ndoor\n')
    few_shot_data.main(['regions', str(tmp_path / 'voc'), str(tmp_path / 'out')])
    assert sorted(path.name for path in (tmp_path / 'out/train').iterdir()) == ['door', 'wall']
    assert Image.open(tmp_path / 'out/val/door/0000.png').size == (30, 36)
