"""Reading JSON: what is lost elsewhere is refused here, with the place in the file."""

from __future__ import annotations

import contextlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdense.utils.errors import InputError
from clipdense.utils.json_files import parse_json, read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
def test_encodings(tmp_path, encoding):
    path = tmp_path / 'names.json'
    path.write_bytes('{"Stra\u00dfe": [1, 2.5, null, "\u732b"]}'.encode(encoding))
    assert read_json(path) == {'Straße': [1, 2.5, None, '猫']}


@pytest.mark.parametrize(
    ('data', 'said'),
    [
        (b'', 'is empty'),
        (b' \n ', 'is empty'),
        (b'{"a": 1,\n "b": }', 'line 2, column 7'),
        (b"{'a': 1}", 'line 1, column 2'),
        (b'[1] [2]', 'Extra data'),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' twice"),
        (b'{"a":\n "\xe9"}', 'line 2 has an invalid byte'),
        (b'\xff\xfe{\x00}', 'not UTF-8'),
        (b'[' * 100_000, 'nested too deeply'),
        (b'{"a":' * 100_000 + b'1' + b'}' * 100_000, 'nested too deeply'),
        (b'9' * 10_000, 'integer of thousands of digits'),
    ],
)
def test_refused_by_name_and_place(tmp_path, data, said):
    path = tmp_path / 'x.json'
    path.write_bytes(data)
    with pytest.raises(InputError, match=said) as refusal:
        read_json(path)
    assert str(path) in str(refusal.value)
    assert '\n' not in str(refusal.value)


def test_equal_values_of_a_repeated_key_lose_nothing():
    assert parse_json('{"a": 1, "a": 1}', 'x') == {'a': 1}


def test_the_limit_of_the_size_can_be_raised(tmp_path, monkeypatch):
    path = tmp_path / 'x.json'
    path.write_text('[' + '1, ' * 4000 + '1]')
    monkeypatch.setenv('CLIPDENSE_MAX_JSON_MB', '0.01')
    with pytest.raises(InputError, match='set CLIPDENSE_MAX_JSON_MB'):
        read_json(path)
    with pytest.raises(InputError, match='too large'):
        read_json(path, max_bytes=100)
    monkeypatch.setenv('CLIPDENSE_MAX_JSON_MB', '0.1')
    assert len(read_json(path)) == 4001
    monkeypatch.setenv('CLIPDENSE_MAX_JSON_MB', 'many')
    with pytest.raises(InputError, match="megabytes such as 500, got 'many'"):
        read_json(path)


def test_a_sparse_file_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / 'x.json'
    with open(path, 'wb') as file:
        os.truncate(file.fileno(), 1 << 40)
    with pytest.raises(InputError, match='too large'):
        read_json(path)


@settings(deadline=None, max_examples=60)
@given(VALUES)
def test_what_json_writes_is_read(value):
    assert parse_json(json.dumps(value), 'x') == value
    assert parse_json(json.dumps(value, ensure_ascii=False), 'x') == value


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=40) | st.text(alphabet='[]{}":,1 ae\\u\n', max_size=40))
def test_anything_else_is_an_input_error(data):
    with contextlib.suppress(InputError):
        parse_json(data, 'x')
