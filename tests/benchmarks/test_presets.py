"""Presets against the released configs, read by hand, and the published numbers beside them."""

from __future__ import annotations

import pytest

from clipdense.benchmarks.build import make_subject
from clipdense.benchmarks.measure import preset_of
from clipdense.benchmarks.presets import (
    FAMILIES,
    default_preset,
    find_preset,
    resizing_positions,
)
from clipdense.benchmarks.published import ELSEWHERE, OPENAI_B16, PUBLISHED, STATUSES, published
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.data.segmentation.published import BENCHMARKS
from clipdense.methods.dense_clip.functions import DENSE_METHODS, find_dense_method
from clipdense.tasks.windows import Slide
from clipdense.utils.errors import InputError
from clipdense.vocab.class_names import named_vocabulary
from clipdense.vocab.templates import get_templates
from clipdense.weights import zoo

TINY = ClipSize(VitSize(32, 8, 32, 1, 1, 32, 16), TextSize(32, 1, 1, 32, 16))

# family, dataset: words, short side, window, stride, scale, threshold for the background, area
SETTINGS = {
    ('sclip', 'voc21'): ('voc21_sclip', 336, 224, 112, 65, 0.1, 0.1),
    ('sclip', 'voc20'): ('voc20_sclip', 336, 224, 112, 40, 0, 0),
    ('sclip', 'context60'): ('context60_sclip', 336, 224, 112, 50, 0.1, 0),
    ('sclip', 'context59'): ('context59_sclip', 336, 224, 112, 40, 0, 0),
    ('sclip', 'coco_object'): ('coco_object_sclip', 336, 224, 112, 50, 0.1, 0),
    ('sclip', 'coco_stuff'): ('coco_stuff_sclip', 448, 224, 112, 40, 0, 0),
    ('sclip', 'ade20k'): ('ade20k_sclip', 336, 224, 112, 40, 0, 0),
    ('sclip', 'cityscapes'): ('cityscapes_sclip', 560, 224, 112, 40, 0, 0),
    ('clearclip', 'voc21'): ('voc21_clearclip', 448, 448, 224, 50, 0.5, 0),
    ('clearclip', 'context60'): ('context60_sclip', 448, 448, 224, 50, 0.15, 0),
    ('clearclip', 'coco_object'): ('coco_object_clearclip', 448, 448, 224, 50, 0.4, 0),
    ('clearclip', 'cityscapes'): ('cityscapes_sclip', 448, 224, 224, 50, 0, 0),
    ('naclip', 'voc21'): ('voc21_sclip', 336, None, None, 40, 0.1, 0),
    ('naclip', 'voc20'): ('voc20_sclip', 336, None, None, 40, 0, 0),
    ('naclip', 'coco_object'): ('coco_object_sclip', 336, 224, 112, 40, 0.1, 0),
    ('naclip', 'coco_stuff'): ('coco_stuff_sclip', 336, 224, 112, 40, 0, 0),
    ('naclip', 'cityscapes'): ('cityscapes_sclip', 560, 224, 112, 40, 0, 0),
    ('proxyclip', 'voc21'): ('voc21_proxyclip', 336, 336, 112, 40, 0.2, 0),
    ('proxyclip', 'voc20'): ('voc20_clearclip', 336, 336, 112, 40, 0, 0),
    ('proxyclip', 'context60'): ('context60_sclip', 336, 336, 112, 40, 0.15, 0),
    ('proxyclip', 'coco_object'): ('coco_object_proxyclip', 336, 336, 112, 40, 0.25, 0),
    ('proxyclip', 'ade20k'): ('ade20k_sclip', 448, 336, 112, 40, 0, 0),
    ('proxyclip', 'ade20k_full'): ('', 448, 336, 112, 40, 0, 0),
    ('proxyclip', 'cityscapes'): ('cityscapes_sclip', 448, 224, 112, 40, 0, 0),
    ('sc_clip', 'voc21'): ('voc21_sclip', 336, 224, 112, 50, 0.15, 0.1),
    ('sc_clip', 'coco_object'): ('coco_object_sclip', 336, 224, 112, 55, 0.35, 0),
    ('sc_clip', 'context60'): ('context60_sclip', 336, 224, 112, 40, 0.15, 0),
    ('resclip', 'voc21'): ('voc21_sclip', 336, None, None, 40, 0.1, 0),
    ('resclip', 'cityscapes'): ('cityscapes_sclip', 560, 224, 112, 40, 0, 0),
    ('maskclip_paper', 'coco_stuff'): ('coco_stuff_maskclip', 512, None, None, 100, 0, 0),
    ('maskclip_paper', 'voc20'): ('voc20_sclip', 512, None, None, 100, 0, 0),
    ('native', 'voc21'): ('', None, None, None, 40, 0, 0),
}  # fmt: skip


@pytest.mark.parametrize(('place', 'expected'), SETTINGS.items(), ids=map('-'.join, SETTINGS))
def test_settings(place, expected):
    preset = find_preset(*place)
    got = (
        preset.words,
        preset.short_side,
        preset.window,
        preset.stride,
        preset.logit_scale,
        preset.background_threshold,
        preset.area_threshold,
    )
    assert got == expected


@pytest.mark.filterwarnings("ignore:'bed' is asked")
@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('dataset', BENCHMARKS)
def test_every_preset_can_be_used(family, dataset):
    preset = find_preset(family, dataset)
    classes = BENCHMARKS[dataset].classes()
    if preset.words:
        assert len(named_vocabulary(preset.words)) == len(classes)
    get_templates(preset.templates)
    if preset.slide() is not None:
        preset.slide().check(16)
    if FAMILIES[family].method in DENSE_METHODS:
        find_dense_method(FAMILIES[family].method, preset.options)
    assert not preset.background_threshold or classes.background


@pytest.mark.parametrize(
    ('family', 'dataset', 'expected'),
    [
        (
            'sclip',
            'voc21',
            'class names voc21_sclip, templates imagenet, short side 336, windows 224 / 112, scale 65, '
            'background below 0.1, no class up to 0.1 of the foreground',
        ),
        (
            'naclip_pamr',
            'voc20',
            'class names voc20_sclip, templates imagenet, short side 336, whole images, scale 40, '
            'PAMR 10 at (8, 16)',
        ),
        (
            'native',
            '',
            'class names of the dataset, templates imagenet, '
            "in proportion to the tower's image size, scale 40",
        ),
    ],
)
def test_settings_in_words(family, dataset, expected):
    assert str(find_preset(family, dataset)) == expected


def test_sizes_of_maskclip():
    """Context's longer side is 520 pixels, COCO-Stuff's shorter one 512."""
    sizes = [
        find_preset('maskclip_paper', dataset).slide().resized((375, 500), 16)
        for dataset in ('context59', 'coco_stuff')
    ]
    assert sizes == [(390, 520), (512, 683)]


def test_refinement():
    assert find_preset('naclip', 'voc21').refiner() is None
    refiner = find_preset('naclip_pamr', 'voc21').refiner()
    assert (refiner.iterations, refiner.dilations) == (10, (8, 16))


def test_options_of_resclip():
    assert find_preset('resclip', 'cityscapes').options == {'cross': (0.2, 2.0), 'feedback': (0.6, 2.1)}


def test_native_is_in_proportion_to_the_tower():
    model = make_subject(build_clip(TINY), '').build('vanilla', find_preset('native'))
    assert model.slide == Slide(48, window=32, stride=16)


@pytest.mark.parametrize(
    ('method', 'dataset', 'expected'),
    [
        ('naclip', 'voc21', 'naclip'),
        ('vanilla', 'voc21', 'sclip'),
        ('maskclip_no_residual', 'ade20k', 'sclip'),
        ('maskclip_denoised', 'voc20', 'maskclip_paper'),
        ('naclip', '', 'native'),
    ],
)
def test_default(method, dataset, expected):
    assert default_preset(method, dataset) == expected


def test_trained_models_keep_their_own_settings():
    """Scale, threshold and position embeddings are not those of training-free methods."""
    assert default_preset('groupvit', '', trained=True) == 'groupvit'
    assert default_preset('another', 'voc21', trained=True) == 'native'
    assert find_preset('groupvit', 'context60').background_threshold == 0.35
    foreign = preset_of('groupvit', 'voc21', 'sclip', trained=True)
    assert (foreign.logit_scale, foreign.position_mode, foreign.words) == (None, '', 'voc21_sclip')


def test_unknown():
    with pytest.raises(InputError, match=r"'slip'. Did you mean 'sclip'\? Known: sclip, "):
        find_preset('slip', 'voc21')


@pytest.mark.parametrize(('mode', 'within'), [('dino', 'dino'), ('', 'bilinear')])
def test_positions_are_resized_the_familys_way_for_a_while(mode, within):
    clip = build_clip(TINY)
    clip.image.position_mode = 'bilinear'
    with resizing_positions(clip, mode):
        assert clip.image.position_mode == within
    assert clip.image.position_mode == 'bilinear'


@pytest.mark.parametrize(
    ('method', 'dataset', 'preset', 'expected'),
    [
        ('sclip', 'voc21', 'sclip', ['59.63 [R]', '59.1 [V]']),
        ('naclip', 'cityscapes', 'naclip', ['35.5 [V]']),
        ('naclip', 'cityscapes', 'naclip_pamr', ['38.27 [R]']),
        ('vanilla', 'context59', None, ['11.1 [V]']),
        ('vanilla', 'voc20', None, ['49.4 [M]']),
        ('proxyclip', 'voc20', None, ['80.3 [M]', '83.3 [M]']),
        ('clip_surgery', 'ade20k', None, []),
        ('maskclip', 'coco_stuff', None, ['16.7 [V]', '12.5 [V]']),
        ('maskclip_denoised', 'context59', 'maskclip_paper', ['25.5 [V]']),
        ('sclip', 'voc21', 'naclip', []),
    ],
)
def test_published_numbers(method, dataset, preset, expected):
    assert [str(number) for number in published(method, dataset, preset)] == expected


def test_published_numbers_are_of_known_things():
    for number in PUBLISHED:
        assert number.dataset in BENCHMARKS
        assert number.status in STATUSES
        assert 0 < number.miou < 100
        assert number.preset in ('', *FAMILIES)
        assert not number.preset or number.method in (*DENSE_METHODS, FAMILIES[number.preset].method)
        assert number.weights in ELSEWHERE or zoo.find(number.weights).name == number.weights
    assert zoo.find(OPENAI_B16).sha256
