"""``init`` and ``check-data``: data of one's own, in every layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from clipdense.config import load_config
from clipdense.data.layouts import recognize
from clipdense.data.segmentation.pairs import SegmentationPairs
from clipdense.engine.launch import check_config
from clipdense.methods.blip.checkpoint import save as save_blip
from clipdense.registry import build_module
from clipdense.utils.errors import InputError

from ..methods.blip.conftest import tiny_blip
from .data_sets import captions, coco, folders, mask, pairs, photo, run, shards, voc

pytestmark = pytest.mark.usefixtures('apart')


# init and train


@pytest.mark.parametrize(
    ('method', 'make', 'options', 'exported'),
    [
        ('lseg', lambda: pairs('mine'), ['train_dataloader.batch_size=5'], 'lseg.safetensors'),
        ('lseg', lambda: voc('mine'), [], 'lseg.safetensors'),
        ('clip', lambda: captions('mine.csv'), ['train_dataloader.batch_size=4'], 'clip.safetensors'),
        (
            'slip',
            lambda: captions('mine.csv'),
            ['train_dataloader.batch_size=4', 'model.partner.hidden=16'],
            'clip.safetensors',
        ),
        ('blip', lambda: captions('mine.csv'), ['train_dataloader.batch_size=4'], 'blip.safetensors'),
        ('blip', lambda: shards('mine'), ['train_dataloader.batch_size=4'], 'blip.safetensors'),
        ('clip', lambda: shards('mine'), ['train_dataloader.batch_size=4'], 'clip.safetensors'),
        ('coop', lambda: folders('mine'), ['train_cfg={"max_steps": 2}'], 'prompts.safetensors'),
        ('vild', lambda: coco('boxes/mine.json'), [], 'vild.safetensors'),
        ('glip', lambda: coco('boxes/mine.json'), [], 'glip.safetensors'),
    ],
)
def test_the_config_trains_as_it_is(capsys, weights, deep, method, make, options, exported):
    data = make()
    weights = deep if method == 'lseg' else weights
    status, out, err = run(capsys, 'init', method, data, '-w', weights)
    assert status == 0, err
    assert f'run `clipdense train {method}_mine.py`' in out
    assert len(Path(f'{method}_mine.py').read_text().splitlines()) < 80
    given = [one for option in [*options, 'train_cfg.max_steps=2'] for one in ('-o', option)]
    if method == 'coop':
        given = ['-o', 'epochs=1', '-o', 'shots=2']
    status, _, err = run(capsys, 'train', f'{method}_mine.py', *given)
    assert status == 0, err
    trained = f'work_dirs/{method}_mine/{exported}'
    assert Path(trained).is_file()
    if method in ('clip', 'slip', 'coop', 'blip'):
        return
    by_config = run(capsys, 'test', f'{method}_mine.py', trained, '--json')
    assert by_config[0] == 0, by_config[2]
    for place in (trained, f'work_dirs/{method}_mine'):
        without = run(capsys, 'test', place, '--data', data, '--json')
        assert without[0] == 0, without[2]
        assert json.loads(without[1]) == json.loads(by_config[1])


def test_a_method_that_needs_no_clip(capsys):
    """A small BLIP from nothing; others take the embedded CLIP."""
    status, _, err = run(capsys, 'init', 'blip', captions('mine.csv'))
    assert status == 0, err
    text = Path('blip_mine.py').read_text()
    assert 'image_weights' not in text
    assert "'slip'" in text
    cfg = load_config('blip_mine.py')
    check_config(cfg)
    with torch.device('meta'):
        assert build_module(cfg.model).blip.image.size.image_size == 224


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('lsegg', 'mine'), "Did you mean 'lseg'?"),
        (('lseg', 'nowhere'), 'nowhere does not exist'),
        (('lseg', 'mine.csv'), 'mine.csv has captions, not masks (a table)'),
        (('clip', 'folders'), 'folders has images, not captions (class folders)'),
        (('clip', 'one.csv'), '1 usable sample;'),
        (('clip', 'odd.csv'), "no column of images and captions among 'a', 'b'"),
        (('clip', 'empty.csv'), 'is empty'),
        (('blip', 'gone.csv'), 'gone.csv: none of the 2 images can be read'),
        (('blip', 'few'), 'few has 1 usable sample; more are needed'),
        (('blip', 'none'), 'no readable sample in none/0.tar; a sample is an image'),
        (('blip', 'nested'), 'nested has folders of shards: give one of them, such as nested/train'),
        (('blip', 'mine/{0..3}.tar'), 'shard mine/0.tar and 3 more of 4 does not exist'),
        (('blip', 'mine/*.tar'), 'no shards in mine/*.tar'),
        (('blip', ''), 'the path of the data is empty'),
        (('lseg', 'empty'), 'has none of the layouts of training data'),
        (('lseg', 'unnamed'), 'unnamed has no classes.txt'),
        (('lseg', 'unpaired'), '1 of 7 images of unpaired/images have no mask in unpaired/masks: 3'),
        (('lseg', 'folders', '--out', 'a.txt'), 'a config ends in .py'),
        (('clip', 'mine.csv', '--out', 'there.py'), 'there.py exists'),
        (('glip', 'phrases.json'), 'phrases.json has phrases, not boxes (captions with boxes)'),
    ],
)
def test_data_that_cannot_be_used_is_refused(capsys, weights, arguments, message):
    captions('mine.csv'), captions('one.csv', 1), captions('odd.csv', columns=('a', 'b')), folders('folders')
    pairs('unnamed'), pairs('unpaired')
    content = json.loads(Path(coco('phrases.json')).read_text())
    content['categories'] = [{'id': 1, 'name': 'object'}]
    content['annotations'][0]['tokens_positive'] = [[0, 3]]
    Path('phrases.json').write_text(json.dumps(content))
    Path('empty').mkdir()
    Path('empty.csv').touch()
    Path('gone.csv').write_text('filepath,title\nno.jpg,a star\nnot.jpg,a circle\n')
    shards('few', 1), shards('none', 0), shards('nested/train'), shards('nested/val')
    Path('there.py').touch()
    Path('unnamed/classes.txt').unlink()
    Path('unpaired/masks/3.png').unlink()
    status, _, err = run(capsys, 'init', *arguments, '-w', weights)
    assert status == 2
    assert message in err
    assert not list(Path().glob('*_*.py'))


@pytest.mark.parametrize(
    'path', ['s3://bucket/{000..099}.tar', 'https://a.b/c.tar.gz', 'cc/*.tar', 'a{0..9}.tar']
)
def test_patterns_and_urls_of_shards(path):
    layout = recognize(path, 'captions')
    assert (layout.layout, layout.train.arguments) == ('webdataset shards', {'urls': path})


def test_a_text_tower_is_asked_for_before_the_training(capsys):
    coco('boxes/mine.json')
    save_blip(tiny_blip(), Path('blip.safetensors'))
    status, _, err = run(capsys, 'init', 'glip', 'boxes/mine.json', '-w', 'blip.safetensors')
    assert status == 2
    assert "has 'ids', which a CLIP does not have: these are weights of another model" in err


# Layouts


LAYOUTS = {
    'pairs': (lambda: pairs('set'), 'masks', 'folders of images and masks', 6, 1),
    'pairs with a suffix': (
        lambda: pairs('set', suffix='_mask'),
        'masks',
        'folders of images and masks',
        6,
        1,
    ),
    'VOC': (lambda: voc('set'), 'masks', 'PASCAL VOC', 5, 2),
    'ADE20K': (
        lambda: pairs('set', 'images/training', 'annotations/training'),
        'masks',
        'ADE20K',
        7,
        None,
    ),
    'CamVid': (lambda: pairs('set', 'train', 'trainannot'), 'masks', 'CamVid (SegNet)', 7, None),
    'captions': (lambda: captions('set.csv'), 'captions', 'a table', 9, None),
    'COCO': (lambda: coco('boxes/set.json'), 'boxes', 'COCO', 5, None),
    'folders': (lambda: folders('set'), 'images', 'class folders', 4, 4),
}


@pytest.mark.parametrize('name', LAYOUTS)
def test_layouts(name):
    make, kind, layout, count, held = LAYOUTS[name]
    found = recognize(make())
    assert (found.kind, found.layout) == (kind, layout)
    assert len(found.train.build()) == count
    assert (found.val is None) is (held is None)
    assert held is None or len(found.val.build()) == held


def test_masks_come_before_boxes_unless_asked():
    folder = voc('set')
    shutil.copytree('set/ImageSets/Segmentation', 'set/ImageSets/Main')
    Path('set/Annotations').mkdir()
    assert recognize(folder).kind == 'masks'
    assert recognize(folder, 'boxes').kind == 'boxes'


def test_parts_of_pairs_have_no_image_in_common():
    parts = [SegmentationPairs(pairs('set', count=12), part=part) for part in ('train', 'val', 'all')]
    files = [set(part.images) for part in parts]
    assert files[0] | files[1] == files[2]
    assert not files[0] & files[1]
    with pytest.raises(InputError, match='part must be'):
        SegmentationPairs('set', part='test')


# check-data


@pytest.mark.parametrize(
    ('name', 'damage', 'message'),
    [
        ('pairs', lambda: Path('set/images/1.jpg').write_text('x'), 'problem: set/images/1.jpg'),
        ('pairs', lambda: mask('set/masks/1.png', 9), 'has labels that are not classes'),
        ('pairs', lambda: mask('set/masks/1.png', 3, (8, 8)), 'is 8 x 8, but its image'),
        ('pairs', lambda: Path('set/masks/1.png').unlink(), '1 of 7 images of set/images have no mask'),
        ('captions', lambda: [one.unlink() for one in Path('photos').iterdir()], '9 images cannot be read'),
        ('COCO', lambda: photo('boxes/1.jpg', (50, 50)), 'but 40 x 32 in the annotations'),
        ('COCO', lambda: Path('boxes/1.jpg').unlink(), '1 of 5 images are missing'),
        (
            'folders',
            lambda: [one.write_text('') for one in Path('set').rglob('*.jpg')],
            'images cannot be read',
        ),
    ],
)
def test_what_stops_a_training_is_found(capsys, name, damage, message):
    path = LAYOUTS[name][0]()
    status, out, err = run(capsys, 'check-data', path)
    assert (status, out.splitlines()[-1]) == (0, 'no problems found'), err
    damage()
    status, out, _ = run(capsys, 'check-data', path)
    assert status == 1
    assert message in out


def test_remarks_do_not_stop(capsys):
    path = captions('set.csv', 3)
    long = 'word ' * 100
    with open(path, 'a') as file:
        file.write(
            f'photos/0.jpg,{long}\nphotos/1.jpg,\nphotos/2.jpg,same\n'
            f'{photo("photos/small.jpg", (4, 4))},same\n'
        )
    status, out, _ = run(capsys, 'check-data', path, '--json', '--batch-size', '64')
    report = json.loads(out)
    assert (status, report['samples'], report['kind']) == (0, 6, 'captions')
    text = '\n'.join(report['remarks'])
    for part in (
        '1 caption occurs several times: same',
        '2 images occur several times',
        'longer than the context',
        '1 of 7 rows cannot be used',
        'smaller than 32 pixels',
        '6 samples are fewer than a batch of 64',
    ):
        assert part in text


def test_classes_without_samples(capsys):
    Path(pairs('set'), 'classes.txt').write_text('sky\nroad\ncar\nship\n')
    status, out, _ = run(capsys, 'check-data', 'set')
    assert status == 0
    assert '1 class without samples: ship' in out
    assert run(capsys, 'check-data', 'set', '--kind', 'boxes')[0] == 1
    assert run(capsys, 'check-data', 'set', '--kind', 'cats')[0] == 2
    assert run(capsys, 'check-data', 'nowhere')[0] == 2
