"""The table of methods describes the training-free functions as they are."""

from __future__ import annotations

import pytest

from clipdense.methods import get_method
from clipdense.methods.dense_clip.functions import DENSE_METHODS
from clipdense.methods.dense_clip.method import METHODS


def test_names_agree():
    assert sorted(method.name for method in METHODS) == sorted(DENSE_METHODS)


@pytest.mark.parametrize('name', sorted(DENSE_METHODS))
def test_options_and_defaults_agree(name):
    """``proxy`` is not an option of the function but a module that the segmenter builds."""
    described = {option.name: option.default for option in get_method(name).options if option.name != 'proxy'}
    assert described == DENSE_METHODS[name].options
    assert {key: type(value) for key, value in described.items()} == {
        key: type(value) for key, value in DENSE_METHODS[name].options.items()
    }


@pytest.mark.parametrize('name', sorted(DENSE_METHODS))
def test_proxies_agree(name):
    listed = any(option.name == 'proxy' for option in get_method(name).options)
    assert listed == DENSE_METHODS[name].needs_proxy


@pytest.mark.parametrize('name', sorted(DENSE_METHODS))
def test_towers_agree(name):
    assert get_method(name).towers == DENSE_METHODS[name].towers


@pytest.mark.parametrize('name', sorted(DENSE_METHODS))
def test_every_function_is_documented(name):
    assert DENSE_METHODS[name].embed.__doc__
