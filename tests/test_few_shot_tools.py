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
    table = few_shot.run(few_shot.arguments([*given, str(tmp_path / 'out.json'), *epochs]))
    assert [(row.method, row.shots, len(row.results)) for row in table.rows][:3] == [
        ('zero-shot', 0, 1),
        ('CoOp', 1, 2),
        ('CoOp', 2, 2),
    ]
    assert len(table.rows) == 1 + 2 * 6
    assert FewShotTable.from_json((tmp_path / 'out.json').read_text()) == table
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
