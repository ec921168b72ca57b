"""From an image and settings to results, without a page."""

from __future__ import annotations

import numpy as np
import pytest

from clipdense.demo.predictions import MAX_NAMES, Engine, Settings, Source
from clipdense.inference.segmenter import Segmenter
from clipdense.tasks.options import SegmentationOptions
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary


@pytest.fixture(scope='module')
def engine(weights):
    return Engine([Source(weights)])


def choice(engine, method):
    return next(one for one in engine.choices if one.method == method)


def expected(weights, method, vocabulary, image, **options):
    options = SegmentationOptions(**options)
    return Segmenter.from_pretrained(weights, method, options=options, cache=False)(image, vocabulary)


def test_a_plain_clip_has_its_methods(engine):
    methods = [one.method for one in engine.choices]
    assert methods[0] == 'maskclip'  # the default
    assert {'vanilla', 'naclip', 'gem'} <= set(methods)
    assert 'proxyclip' not in methods  # needs a second model
    assert engine.choices[0].label == 'tiny.safetensors · maskclip'  # without its folder


def test_files_of_one_name_are_told_apart(weights, tmp_path):
    other = tmp_path / weights.name
    other.write_bytes(weights.read_bytes())
    labels = [one.label for one in Engine([Source(weights), Source(other)]).choices]
    assert len(set(labels)) == len(labels)
    assert {'tiny.safetensors (1) · maskclip', 'tiny.safetensors (2) · maskclip'} < set(labels)


@pytest.mark.parametrize('method', ['maskclip', 'naclip'])
def test_results_are_those_of_the_segmenter(engine, weights, image, method):
    answer = engine.predict(image, choice(engine, method), Settings('cat, dog\nsofa'))
    wanted = expected(weights, method, ['cat', 'dog', 'sofa'], image)
    assert np.array_equal(answer.result.mask, wanted.mask)
    assert np.array_equal(answer.result.scores, wanted.scores)
    assert answer.notes == ()


def test_settings_are_those_of_the_call(engine, weights, image):
    """What one visitor sets, in either order, has no effect on another."""
    first = engine.choices[0]
    plain, strict = Settings('cat, background'), Settings('cat, background', True, 0.9, 0.05)
    before = engine.predict(image, first, plain).result
    changed = engine.predict(image, first, strict).result
    after = engine.predict(image, first, plain).result
    background = Vocabulary(('cat', 'background')).marking_background()
    options = {'refine': True, 'background_threshold': 0.9, 'area_threshold': 0.05}
    assert np.array_equal(changed.mask, expected(weights, None, background, image, **options).mask)
    assert np.array_equal(before.mask, after.mask)
    assert np.array_equal(before.scores, after.scores)


@pytest.mark.parametrize('setting', ['background_threshold', 'area_threshold'])
def test_a_threshold_adds_a_background(engine, image, setting):
    vocabulary = engine.predict(
        image, engine.choices[0], Settings('cat, dog', **{setting: 0.5})
    ).result.vocabulary
    assert vocabulary.class_names == ('background', 'cat', 'dog')


def test_a_click_has_the_scores_of_the_pixel(engine, image):
    answer = engine.predict(image, engine.choices[0], Settings('cat, dog, sofa'))
    for column, row in ((0, 0), (63, 47), (20, 31)):
        point = answer.points.at((column + 0.5) / 64, (row + 0.5) / 48)
        best, score = point.scores[0]
        assert (point.column, point.row) == (column, row)
        assert best == answer.result.mask[row, column]
        assert score == pytest.approx(answer.result.scores[row, column], abs=1e-3)
        assert sum(score for _, score in point.scores) == pytest.approx(1, abs=3e-3)


@pytest.mark.parametrize('place', [(-5, -5), (0, 0), (1, 1), (7, 0.5)])
def test_a_click_beside_the_image_is_its_border(engine, image, place):
    point = engine.predict(image, engine.choices[0], Settings('cat, dog')).points.at(*place)
    assert (0 <= point.column < 64, 0 <= point.row < 48) == (True, True)


BAD_NAMES = {
    '': 'no class names',
    ' \n , ': 'no class names',
    'cat,, dog': 'blank',
    'cat, Cat': 'listed twice',
    'cat, ' + 'x' * 5000: '5000 characters',
    ', '.join(f'class {index}' for index in range(MAX_NAMES + 1)): 'more than the limit of 500',
    'cat, a\x00b': 'control character',
}


@pytest.mark.parametrize(('names', 'said'), BAD_NAMES.items(), ids=range(len(BAD_NAMES)))
def test_names_are_refused(engine, image, names, said):
    with pytest.raises(InputError, match=said):
        engine.predict(image, engine.choices[0], Settings(names))


ODD_NAMES = ['<script>alert(1)</script>, cat', 'Straße, 猫, 🐱', 'a\\, b, c', ', '.join(map(str, range(500)))]


@pytest.mark.parametrize('names', ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_odd_names_are_names(engine, image, names):
    answer = engine.predict(image, engine.choices[0], Settings(names))
    assert answer.result.vocabulary.class_names == Vocabulary.parse(names).class_names


@pytest.mark.parametrize('value', [-1, 2, 1e300, float('nan')])
@pytest.mark.parametrize('setting', ['background_threshold', 'area_threshold'])
def test_thresholds_are_refused(engine, image, setting, value):
    with pytest.raises(InputError, match=f'{setting} must be a number between 0 and 1'):
        engine.predict(image, engine.choices[0], Settings('a, background', **{setting: value}))


def test_doubts_are_told(engine, image):
    assert 'one class only' in engine.predict(image, engine.choices[0], Settings('cat')).notes[0]
    assert 'one class name' in engine.predict(image, engine.choices[0], Settings('cat; dog')).notes[0]


def test_names_are_not_written_to_disk(weights, image, tmp_path, monkeypatch):
    monkeypatch.setenv('CLIPDENSE_CACHE', str(tmp_path))
    engine = Engine([Source(weights)])
    engine.predict(image, engine.choices[0], Settings('a secret, a wall'))
    assert not list(tmp_path.rglob('*'))


@pytest.mark.parametrize('sources', [[], [Source('no_such_file.pt')]], ids=['none', 'missing'])
def test_weights_are_refused(sources):
    with pytest.raises(InputError):
        Engine(sources)
