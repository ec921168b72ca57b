"""The grid over methods and datasets: what it records, what it repeats, what it says when something fails."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.benchmarks import grid as grid_module
from clipdense.benchmarks.build import make_subject
from clipdense.benchmarks.evaluation import PresetSegmentation
from clipdense.benchmarks.grid import Grid, check_names
from clipdense.benchmarks.measure import Source, Subject, preset_of
from clipdense.benchmarks.published import published
from clipdense.benchmarks.reproduce import NotReady, gather, judge, reproduce, same_weights
from clipdense.benchmarks.tables import comma_separated, markdown
from clipdense.clip.checkpoint import save
from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.data.segmentation.published import BENCHMARKS, find_benchmark
from clipdense.methods.dense_clip.functions import DENSE_METHODS
from clipdense.methods.groupvit.model import build_group_vit
from clipdense.methods.groupvit.sizes import GroupVitImageSize, GroupVitSize, StageSize
from clipdense.methods.lseg.backbones import TransformerPyramid
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import write_mask

TINY = ClipSize(
    VitSize(image_size=32, patch_size=8, width=32, layers=2, num_heads=2, mlp_width=64, embed_dim=16),
    TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16),
)
METHODS = ['vanilla', 'maskclip']


def tiny(seed: int = 0) -> Subject:
    torch.manual_seed(seed)
    return make_subject(build_clip(TINY).eval(), 'tiny')


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setenv('CLIPDENSE_OFFLINE', '1')


def make_voc(root, names=('a', 'b'), classes=('sky', 'road', 'tree')):
    """A folder in VOC format, in miniature."""
    rng = np.random.default_rng(0)
    for name in names:
        for folder in ('JPEGImages', 'SegmentationClass', 'ImageSets/Segmentation'):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.effect_noise((40, 30), 80).convert('RGB').save(root / f'JPEGImages/{name}.jpg')
        write_mask(root / f'SegmentationClass/{name}.png', rng.integers(0, 3, (30, 40)))
    (root / 'ImageSets/Segmentation/val.txt').write_text('\n'.join(names))
    if classes:
        (root / 'classes.txt').write_text('\n'.join(classes))
    return root


@pytest.fixture
def own(tmp_path):
    return make_voc(tmp_path / 'own')


@pytest.fixture
def data(tmp_path):
    """The folder of the published datasets, with two images of VOC."""
    make_voc(tmp_path / 'data/VOCdevkit/VOC2012', classes=())
    return tmp_path / 'data'


@pytest.fixture
def small(monkeypatch):
    """A VOC of two images is complete."""
    for name in ('voc21', 'voc20'):
        facts = find_benchmark(name)
        monkeypatch.setitem(BENCHMARKS, name, type(facts)(**{**vars(facts), 'num_images': 2}))


def run(tmp_path, methods, datasets, source=None, **options):
    return list(Grid(tiny(), methods, datasets, tmp_path / 'out', source, **options).run())


@pytest.mark.usefixtures('small')
def test_the_grid(tmp_path, own, data):
    """Two methods, a published dataset and a folder of one's own, native so that the tiny tower can see."""
    cells = run(tmp_path, METHODS, ['voc20', str(own)], Source(data), preset='native')
    assert [(cell['method'], cell['dataset']) for cell in cells] == [
        ('vanilla', 'voc20'), ('maskclip', 'voc20'), ('vanilla', 'own'), ('maskclip', 'own'),
    ]  # fmt: skip
    for cell in cells:
        assert 0 <= cell['miou'] <= 100
        assert cell['images_per_second'] > 0
    stored = json.loads((tmp_path / 'out/cells' / f'{cells[3]["key"]}.json').read_text())
    assert stored['preset']['name'] == 'native'
    assert stored['weights']['name'] == 'tiny'
    assert len(stored['weights']['digest']) == 64
    assert stored['weights']['size']['image']['activation'] == 'quick_gelu'
    assert stored['data']['images'] == 2
    assert list(stored['classes']) == ['sky', 'road', 'tree']
    assert stored['miou'] == pytest.approx(np.mean(list(stored['classes'].values())), abs=1e-3)
    assert stored['versions']['torch'] == torch.__version__
    assert len(stored['templates']) == 80
    assert {'preset', 'vocabulary', 'date', 'device', 'seconds'} <= stored.keys()


def test_splits_of_a_folder_are_datasets_of_their_own(tmp_path, own):
    (own / 'ImageSets/Segmentation/some.txt').write_text('b')
    cells = run(tmp_path, ['vanilla'], [str(own), f'{own}:some', f'{own}:none'])
    assert [cell['dataset'] for cell in cells] == ['own', 'own:some', 'own:none']
    assert [cell['data']['images'] for cell in cells[:2]] == [2, 1]
    assert "no split 'none'" in cells[2]['failure']


def test_a_row_may_have_its_own_preset(tmp_path, own):
    cells = run(tmp_path, ['vanilla', 'vanilla:sclip'], [str(own)])
    assert [cell['preset']['name'] for cell in cells] == ['native', 'sclip']
    table = (tmp_path / 'out/table.md').read_text()
    assert f'| vanilla | native | {cells[0]["miou"]:.2f} |' in table
    assert f'| vanilla | sclip | {cells[1]["miou"]:.2f} |' in table
    with pytest.raises(InputError, match="'slip'"):
        check_names(['vanilla:slip'], ['voc21'], None, ('vanilla',))


def test_miou_is_that_of_the_masks(tmp_path, own):
    """Against a pixel loop over what the model itself answers."""
    (cell,) = run(tmp_path, ['maskclip'], [str(own)])
    subject = tiny()
    model = subject.build('maskclip', preset_of('maskclip', str(own)))
    data = Source().open(str(own))
    model.set_vocabulary(data.vocabulary, PromptEnsemble(subject.model, cache=None).embed(data.vocabulary))
    hits, unions = np.zeros(3), np.zeros(3)
    for item in data:
        image = model.data_preprocessor.normalize(item['images'])
        found, mask = model.segment(image).classes.numpy(), item['samples'].mask.numpy()
        for index in range(3):
            hits[index] += ((found == index) & (mask == index)).sum()
            unions[index] += ((found == index) | (mask == index)).sum()
    assert cell['miou'] == pytest.approx(100 * (hits / unions).mean(), abs=1e-3)


def test_a_config_measures_the_same(own):
    """``dense_clip/voc21`` and ``clipdense reproduce`` give one number."""
    subject, method = tiny(), 'sclip'
    run = gather(method, str(own), '', lambda name: subject, Source(), 'sclip')
    expected = reproduce(run).cell
    found = PresetSegmentation(method, str(own), preset='sclip')(subject.model)
    for name in ('miou', 'pixel_accuracy', 'mean_accuracy'):
        assert round(100 * found[f'own/sclip/{name}'], 4) == expected[name]


@pytest.mark.usefixtures('small')
def test_finished_cells_are_not_repeated_after_an_interruption(tmp_path, own, data, monkeypatch):
    calls = []
    measure = grid_module.measure

    def interrupted(subject, method, *arguments):
        calls.append(method)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(subject, method, *arguments)

    monkeypatch.setattr(grid_module, 'measure', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, METHODS, ['voc20', str(own)], Source(data), preset='native')
    assert 'voc20' in (tmp_path / 'out/table.md').read_text()  # what was done is there to read
    cells = run(tmp_path, METHODS, ['voc20', str(own)], Source(data), preset='native')
    assert len(calls) == 3 + 2
    assert [cell.get('stored', False) for cell in cells] == [True, True, False, False]
    assert 'stored' not in json.loads((tmp_path / 'out/cells' / f'{cells[0]["key"]}.json').read_text())


CHANGES = {
    'nothing': (lambda own: {}, True),
    'another limit': (lambda own: {'source': Source(limit=1)}, False),
    'another preset': (lambda own: {'preset': 'sclip'}, False),
    'another mask': (
        lambda own: write_mask(own / 'SegmentationClass/a.png', np.zeros((30, 40), int)) or {},
        False,
    ),
    'another word': (lambda own: (own / 'classes.txt').write_text('sky\nstreet\ntree') and {}, False),
    'a folder by another name': (lambda own: own.rename(own.with_name('own')) and {}, True),
}


@pytest.mark.parametrize(('change', 'kept'), CHANGES.values(), ids=CHANGES)
def test_a_cell_is_kept_only_under_the_same_conditions(tmp_path, own, change, kept):
    run(tmp_path, ['vanilla'], [str(own)])
    (cell,) = run(tmp_path, ['vanilla'], [str(own)], **change(own))
    assert cell.get('stored', False) == kept


def test_other_weights_are_another_cell(tmp_path, own):
    run(tmp_path, ['vanilla'], [str(own)])
    (cell,) = Grid(tiny(1), ['vanilla'], [str(own)], tmp_path / 'out').run()
    assert 'stored' not in cell


def test_another_activation_is_another_cell(tmp_path, own):
    """The numbers are the same, what is done with them is not."""
    run(tmp_path, ['vanilla'], [str(own)])
    other = build_clip(TINY.with_activation('gelu')).eval()
    other.load_state_dict(tiny().model.state_dict())
    (cell,) = Grid(make_subject(other, 'tiny'), ['vanilla'], [str(own)], tmp_path / 'out').run()
    assert 'stored' not in cell


def test_options_are_for_the_familys_method():
    assert preset_of('resclip', 'voc21').options
    assert not preset_of('vanilla', 'voc21', 'resclip').options


def test_a_damaged_result_is_made_again(tmp_path, own):
    (cell,) = run(tmp_path, ['vanilla'], [str(own)])
    (tmp_path / 'out/cells' / f'{cell["key"]}.json').write_text('{"miou"')
    (again,) = run(tmp_path, ['vanilla'], [str(own)])
    assert (again['miou'], again.get('stored')) == (cell['miou'], None)


def test_failures_do_not_stop_the_grid(tmp_path, own):
    """A dataset that is not there, and a method that lacks its proxy."""
    cells = run(tmp_path, ['proxyclip', 'vanilla'], ['cityscapes', str(own)], Source(tmp_path / 'nothing'))
    assert ['failure' in cell for cell in cells] == [True, True, True, False]
    assert 'Cityscapes not found in' in cells[0]['failure']
    assert 'needs a proxy' in cells[2]['failure']
    table = (tmp_path / 'out/table.md').read_text()
    assert '| proxyclip | proxyclip, native | failed (38.1 [V]) | failed |' in table
    assert '* failed: cityscapes (proxyclip, vanilla): Cityscapes not found in' in table


def test_errors_of_any_kind_are_recorded(tmp_path, own, monkeypatch):
    def broken(*_):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(grid_module, 'measure', broken)
    (cell,) = run(tmp_path, ['vanilla'], [str(own)])
    assert cell['failure'] == 'RuntimeError: out of memory'


def test_broken_masks_fail_with_their_name(tmp_path, own):
    Image.new('RGB', (40, 30)).save(own / 'SegmentationClass/b.png')
    (cell,) = run(tmp_path, ['vanilla'], [str(own)])
    assert 'b.png is a color image' in cell['failure']


def fake(method, dataset, miou, complete=True, preset=None, images=2, published_images=2):
    return {
        'method': method,
        'dataset': dataset,
        'preset': preset_of(method, dataset, preset).to_dict(),
        'miou': miou,
        'pixel_accuracy': 50.0,
        'data': {'images': images, 'published_images': published_images, 'complete': complete},
        'images_per_second': 2.0,
        'seconds': 1.0,
        'weights': {'name': 'ViT-B-16/openai', 'digest': 'abc'},
        'versions': {'clipdense': '0.1.0', 'torch': '2.15'},
        'device': 'cpu',
        'date': '2026-11-21T08:00:00+00:00',
        'key': 'k',
    }


def test_markdown_stands_beside_published_numbers():
    cells = [
        fake('sclip', 'voc21', 59.0),
        fake('naclip', 'voc21', 12.344, complete=False, published_images=1449),
        fake('sclip', 'context59', None),
        fake('naclip', 'context59', 35.0, preset='naclip_pamr'),
    ]
    lines = markdown(cells).splitlines()
    assert '| sclip | sclip | 59.00 (59.63 [R]) | n/a (34.46 [R]) |' in lines
    assert '| naclip | naclip, naclip_pamr | 12.34 on 2 of 1449 (58.9 [V]) | 35.00 (38.35 [R]) |' in lines
    assert '* SCLIP, README (ViT-B-16/openai)' in lines
    assert any(line.startswith('| Trident | 67.1 [V] |') for line in lines)
    assert any('[R] read in the official' in line for line in lines)


def test_comma_separated_values():
    (row,) = csv.DictReader(comma_separated([fake('sclip', 'voc21', 59.0)]).splitlines())
    assert (row['miou'], row['published'], row['status'], row['difference']) == (
        '59.0',
        '59.63',
        'R',
        '-0.63',
    )
    assert row['source'] == 'SCLIP, README'


def test_json_table(tmp_path, own):
    run(tmp_path, METHODS, [str(own)])
    table = json.loads((tmp_path / 'out/table.json').read_text())
    assert [cell['method'] for cell in table] == METHODS
    assert table[0]['published'] is None


@pytest.mark.parametrize(
    ('methods', 'datasets', 'message'),
    [
        (['maskclop'], ['voc21'], "mean 'maskclip'"),
        (['vanilla'], ['voc12'], "'voc12'. Did you mean"),
        ([], ['voc21'], 'no method or no dataset given'),
    ],
)
def test_names_are_checked_first(methods, datasets, message):
    with pytest.raises(InputError, match=message):
        check_names(methods, datasets, None, tuple(DENSE_METHODS))


VERDICTS = {  # cell, weights are those of the number: words
    'within': (fake('sclip', 'voc21', 59.20), True, r'^reproduced \(-0.43 points\)$'),
    'above': (fake('sclip', 'voc21', 61.0), True, r'^not reproduced: \+1.37 points$'),
    'unknown weights': (fake('sclip', 'voc21', 59.63), None, 'reproduced .*which the file does not record'),
    'other weights': (fake('sclip', 'voc21', 59.63), False, '^not comparable: .* score is for ViT-B-16/'),
    'incomplete': (
        fake('sclip', 'voc21', 59.63, False, published_images=1449),
        True,
        '^not comparable: 2 of 1449 images$',
    ),
    'not verified': (fake('vanilla', 'voc21', 18.8), True, 'reproduced .*published score is not verified'),
    'nothing published': (fake('maskclip_no_residual', 'voc21', 1.0), None, 'no score was published'),
}  # fmt: skip


@pytest.mark.parametrize(('cell', 'same', 'message'), VERDICTS.values(), ids=VERDICTS)
def test_verdicts(cell, same, message):
    numbers = published(cell['method'], cell['dataset'], cell['preset']['name'])
    assert re.search(message, judge(cell, next(iter(numbers), None), same))


@pytest.mark.usefixtures('small')
def test_reproduce(tmp_path, data):
    save(tiny().model, tmp_path / 'tiny.safetensors')
    made = gather(
        'sclip', 'voc20', str(tmp_path / 'tiny.safetensors'), lambda name: tiny(), Source(data), 'native'
    )
    assert made.target is None
    verdict = reproduce(made)
    assert 'verdict    not comparable: no score' in str(verdict)
    made = gather('sclip', 'voc20', str(tmp_path / 'tiny.safetensors'), lambda name: tiny(), Source(data))
    assert (made.target.miou, made.same_weights) == (81.54, None)
    text = str(reproduce(made))
    assert 'settings   class names voc20_sclip, ' in text
    assert 'published  81.54 [R' in text
    assert 'tolerance  0.5 points' in text
    assert 'not reproduced' in text


def test_what_a_run_needs_is_said_in_a_line_each(tmp_path):
    def absent(name):
        raise InputError(f'{name} is not here')

    with pytest.raises(NotReady) as told:
        gather('sclip', 'ade20k', 'ViT-B-16/openai', absent, Source(tmp_path))
    first, second = told.value.needs
    assert first == 'weights: ViT-B-16/openai is not here'
    assert second.startswith('data: ADE20K-150 not found in')
    with pytest.raises(NotReady, match=r'method: method .proxyclip. needs a proxy'):
        gather('proxyclip', 'ade20k', 'x', lambda name: tiny(), Source(tmp_path))


def test_weights_are_told_by_name_and_by_digest(tmp_path):
    name = 'ViT-B-16/openai'
    other = tmp_path / 'ViT-B-16.pt'
    other.write_bytes(b'something else')
    converted = tmp_path / 'converted.safetensors'
    converted.write_bytes(b'who knows')
    told = [same_weights(str(weights), name) for weights in ('ViT-B/16', 'ViT-L-14/openai', other, converted)]
    assert told == [True, False, False, None]


def tiny_group_vit():
    torch.manual_seed(0)
    stages = tuple(StageSize(1, 16, 2, tokens, groups) for tokens, groups in ((6, 6), (3, 3), (0, 0)))
    image = GroupVitImageSize(16, 4, stages, embed_dim=8, projector_width=12, mlp_ratio=2)
    text = TextSize(width=16, layers=1, num_heads=2, mlp_width=32, embed_dim=8)
    return build_group_vit(GroupVitSize(image, text, True)).eval()


def tiny_lseg():
    torch.manual_seed(0)
    clip = build_clip(TINY).eval()
    tower = build_clip(replace(TINY, image=replace(TINY.image, layers=4))).eval().image
    return LSeg(
        TransformerPyramid(tower, channels=(8, 8, 8, 8), scales=(4, 2, 1, 0.5)), clip, width=16
    ).eval()


@pytest.mark.parametrize(('make', 'method'), [(tiny_group_vit, 'groupvit'), (tiny_lseg, 'lseg')])
def test_trained_models_run_in_the_grid(tmp_path, own, make, method):
    """By their own preset, and under another family's without its scale; afterwards they are as before."""
    model = make()
    before = getattr(model, 'slide', None)
    subject = make_subject(model, method)
    assert (subject.trained, subject.methods) == (True, (method,))
    cells = list(Grid(subject, [method, f'{method}:sclip'], [str(own)], tmp_path / 'out').run())
    assert [cell.get('failure') for cell in cells] == [None, None]
    assert [cell['preset']['name'] for cell in cells] == [method, 'sclip']
    assert all(0 <= cell['miou'] <= 100 for cell in cells)
    assert cells[1]['preset']['logit_scale'] is None
    assert getattr(model, 'slide', None) == before
    run = gather(method, str(own), '', lambda name: subject, Source())
    assert reproduce(run).cell['scores'] == cells[0]['scores']
    with pytest.raises(InputError, match=f"unknown method 'sclip'.*{method}"):
        Grid(subject, ['sclip'], [str(own)], tmp_path / 'out')
