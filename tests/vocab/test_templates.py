"""Templates: the published sets, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from clipdense.utils.errors import InputError
from clipdense.vocab.templates import TEMPLATES, fill, get_templates


@pytest.fixture
def published():
    """open_clip's copy of OpenAI's lists, read without importing the package."""
    package = importlib.util.find_spec('open_clip')
    if package is None:
        pytest.skip('open_clip_torch is not installed')
    file = Path(package.origin).with_name('zero_shot_metadata.py')
    spec = importlib.util.spec_from_file_location('zero_shot_metadata', file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ('name', 'theirs', 'count'),
    [('imagenet', 'OPENAI_IMAGENET_TEMPLATES', 80), ('openai7', 'SIMPLE_IMAGENET_TEMPLATES', 7)],
)
def test_published_sets(published, name, theirs, count):
    assert TEMPLATES[name].prompts('X') == [make('X') for make in getattr(published, theirs)]
    assert len(set(TEMPLATES[name].formats)) == count


@pytest.mark.parametrize(
    ('name', 'count'), [('imagenet', 80), ('openai7', 7), ('cifar', 18), ('simple', 1), ('name', 1)]
)
def test_sets_are_sound(name, count):
    assert len(set(get_templates(name).formats)) == len(get_templates(name)) == count
    assert get_templates(TEMPLATES[name].formats) == TEMPLATES[name]


@pytest.mark.parametrize(
    ('template', 'name', 'prompt'),
    [
        ('a photo of a {}.', 'cat', 'a photo of a cat.'),
        ('{}', 'salt, pepper', 'salt, pepper'),
        ('a {} {0}', '{}', 'a {} {0}'),
    ],
)
def test_fill(template, name, prompt):
    assert fill(template, name) == prompt


@pytest.mark.parametrize(
    ('templates', 'expected'),
    [('an {}', ('an {}',)), (['a {}', 'b {}'], ('a {}', 'b {}')), (('{}',), ('{}',))],
    ids=['one', 'list', 'tuple'],
)
def test_own_templates(templates, expected):
    assert get_templates(templates).rule == expected


@pytest.mark.parametrize(
    ('templates', 'message'),
    [
        ('imagnet', "unknown template set 'imagnet'. Did you mean 'imagenet'"),
        ('', 'unknown template set'),
        ([], 'no prompt templates'),
        (['a photo'], "exactly once.*'a photo'"),
        (['{} and {}'], 'exactly once'),
        (['a {name}'], 'exactly once'),
        ('a {0}', 'exactly once'),
        ([3], 'exactly once'),
    ],
)
def test_refused(templates, message):
    with pytest.raises(InputError, match=message):
        get_templates(templates)
