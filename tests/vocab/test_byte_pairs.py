"""Byte pairs against a plain implementation, the fast path against the full one, and the merge file."""

from __future__ import annotations

import random
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdense.utils.errors import InputError
from clipdense.vocab import byte_pairs
from clipdense.vocab.byte_pairs import BytePairs, mend, openai_byte_pairs, split_words

# Visible bytes count from '!', which is id 0: 'l' is 75. The file writes the space as 'Ġ'.
MERGES = [('l', 'o'), ('lo', 'w</w>'), ('e', 'r</w>'), ('lo', 'lo'), ('Ġ', 'l')]
L, END = 75, 256  # 'l', and what a byte gains at the end of a word


@pytest.mark.parametrize(
    ('word', 'ids'),
    [
        ('low', (513,)),  # l o w -> lo w -> low
        ('lower', (512, 86, 514)),  # w is not at the end here
        ('lolo', (512, L, 78 + END)),  # "lo</w>" is another symbol than "lo"
        ('lololol', (515, 512, L + END)),  # pairs are joined from the left
        ('r', (81 + END,)),
        ('x', (87 + END,)),
        (' lo', (516, 78 + END)),  # the hidden byte 32
        ('<|startoftext|>', (517,)),
        ('<|endoftext|>', (518,)),
    ],
)
def test_merges_by_priority(word, ids):
    assert BytePairs(MERGES)[word] == ids


def test_pieces_are_the_bytes_of_ids():
    pairs = BytePairs(MERGES)
    assert pairs.pieces[513] == b'low '
    assert pairs.pieces[516] == b' l'
    assert pairs.pieces[518] == b'<|endoftext|>'


def plain_merge(table, word):
    """The textbook's way: join every occurrence of the best pair, look again."""
    ids = [table._id_of_byte[byte] for byte in word.encode()]
    ids[-1] += 256
    while True:
        pairs = [table._merged[pair] for pair in pairwise(ids) if pair in table._merged]
        if not pairs:
            return tuple(ids)
        best, joined, place = min(pairs), [], 0
        while place < len(ids):
            here = table._merged.get(tuple(ids[place : place + 2])) == best
            joined.append(best if here else ids[place])
            place += 2 if here else 1
        ids = joined


def test_same_as_plain_merging():
    table, draw = openai_byte_pairs(), random.Random(0)
    words = [''.join(draw.choices('aeinrstxé猫', k=draw.randint(1, 30))) for _ in range(300)]
    assert [table[word] for word in words] == [plain_merge(table, word) for word in words]


def test_one_word_of_a_caption_may_be_huge():
    table = openai_byte_pairs()
    assert len(table['猫' * 20_000]) == 60_000  # 猫 is three tokens; quadratic merging would take minutes


def test_remembered_words_are_bounded(monkeypatch):
    monkeypatch.setattr(byte_pairs, '_CACHE_SIZE', 4)
    pairs = BytePairs(MERGES)
    before = [pairs[word] for word in ('low', 'lower', 'lo', 'l', 'o', 'w')]
    assert len(pairs) <= 4
    assert [pairs[word] for word in ('low', 'lower', 'lo', 'l', 'o', 'w')] == before
    pairs['l' * 100]
    assert 'l' * 100 not in pairs


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('', []),
        (' \n', []),
        ("Don't  stop-it", ['don', "'t", 'stop', '-', 'it']),
        ("we'll'd", ['we', "'ll", "'d"]),
        ('B2B 42', ['b', '2', 'b', '4', '2']),
        ('a_b!?.', ['a', '_', 'b', '!?.']),
        ('<|startoftext|>x', ['<|startoftext|>', 'x']),
        ('<|x|>', ['<|', 'x', '|>']),
        ('tom &amp;amp; jerry', ['tom', '&', 'jerry']),
        ('<b>x &amp;lt; y', ['<', 'b', '>', 'x', '<', 'y']),  # ftfy leaves entities beside a tag alone
        ('schön²', ['schön', '²']),
        ('a\x00b\x1fc', ['abc']),  # control characters are dropped, not taken for spaces
        ('doesnâ€™t', ['doesn', "'t"]),
    ],
)
def test_split_words(text, words):
    assert split_words(text) == words


@settings(max_examples=300, deadline=None, database=None)
@given(st.text(alphabet=[chr(code) for code in range(128)], max_size=60))
def test_fast_path_equals_full_path(text):
    fast = split_words(text)
    plain, byte_pairs._PLAIN = byte_pairs._PLAIN, byte_pairs.re.compile('(?!)')
    try:
        assert split_words(text) == fast
    finally:
        byte_pairs._PLAIN = plain


def test_mend():
    assert mend(' a &lt; b ') == 'a < b'
    assert mend('plain  text ') == 'plain  text'


@pytest.fixture
def fresh_table():
    openai_byte_pairs.cache_clear()
    yield
    openai_byte_pairs.cache_clear()


@pytest.mark.usefixtures('fresh_table')
def test_merge_file_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(byte_pairs.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install open_clip_torch'):
        openai_byte_pairs()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(byte_pairs.importlib.util, 'find_spec', lambda name: spec)
    with pytest.raises(InputError, match='pip install open_clip_torch'):
        openai_byte_pairs()


@pytest.mark.usefixtures('fresh_table')
def test_merge_file_is_another(monkeypatch, tmp_path):
    (tmp_path / byte_pairs.MERGES_FILE).write_bytes(b'not the table')
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(byte_pairs.importlib.util, 'find_spec', lambda name: spec)
    with pytest.raises(InputError, match="not OpenAI's table"):
        openai_byte_pairs()
