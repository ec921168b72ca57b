"""Rows of tables: none is lost, in no dialect, encoding or damage."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipdense.data.tables import read_table
from clipdense.data.text_tables import LONGEST_LINE, Dialect
from clipdense.utils.errors import InputError

COLUMNS = ['image', 'caption']
HEAD = 'image\tcaption\n'


def rows_of(path, content, dialect=None, columns=COLUMNS):
    """The number of the line, and the values or the fault, of each row."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return [
        (int(row.where.rpartition(' ')[2]), row.fault or tuple(row.values[column] for column in columns))
        for row in read_table(path, columns, dialect)
    ]


TABLES = {
    'quote that never closes': (
        HEAD + 'a.png\t"A dog\nb.png\ta cow\n',
        [('a.png', '"A dog'), ('b.png', 'a cow')],
    ),
    'quote that closes three rows later': (
        HEAD + 'a.png\t"A dog\nb.png\ta cow\nc.png\tshe said "hi"\n',
        [('a.png', '"A dog'), ('b.png', 'a cow'), ('c.png', 'she said "hi"')],
    ),
    'quote before a quoted caption': (
        HEAD + 'a.png\t"A dog\nb.png\t"a cow"\nc.png\tx\n',
        [('a.png', '"A dog'), ('b.png', 'a cow'), ('c.png', 'x')],
    ),
    'quote in the path column': (
        HEAD + '"a.png\tA dog\nb.png\ta cow"\n',
        [('"a.png', 'A dog'), ('b.png', 'a cow"')],
    ),
    'paths without an ending': (HEAD + 'a\t"A dog\nb\tsays "hi"\n', [('a', '"A dog'), ('b', 'says "hi"')]),
    'inches': (HEAD + 'a.png\t27" tv\nb.png\t"12"" tv\n', [('a.png', '27" tv'), ('b.png', '"12"" tv')]),
    'doubled': (HEAD + 'a.png\t"a ""big"" dog"\n', [('a.png', 'a "big" dog')]),
    'text behind the quote': (HEAD + 'a.png\t"best" friends\n', [('a.png', '"best" friends')]),
    'backslash': (HEAD + 'a.png\t"a \\"big\\" dog"\n', [('a.png', '"a \\"big\\" dog"')]),
    'two lines': (HEAD + 'a.png\t"one\ntwo"\nb.png\tx\n', [('a.png', 'one\ntwo'), ('b.png', 'x')]),
    'two lines, caption first': ('caption\timage\n"one\ntwo"\ta.png\n', [('a.png', 'one\ntwo')]),
    'two lines with tabs': (
        HEAD + 'a.png\t"one\ttwo\nthree\tfour"\nb.png\tx\n',
        [('a.png', 'one\ttwo\nthree\tfour'), ('b.png', 'x')],
    ),
    'line feed in CRLF': ('image\tcaption\r\na.png\t"one\ntwo"\r\n', [('a.png', 'one\ntwo')]),
    'old Mac': ('image\tcaption\ra.png\tone\rb.png\ttwo', [('a.png', 'one'), ('b.png', 'two')]),
    'other line ends in a caption': (
        HEAD + 'a.png\tone\x0btwo\x85three\u2028four\n',
        [('a.png', 'one\x0btwo\x85three\u2028four')],
    ),
    'hash': (HEAD + '#1.png\t#dog\n', [('#1.png', '#dog')]),
    'blank lines': ('\n\n' + HEAD + '\na.png\tone\n\n\r\n  \n', [('a.png', 'one')]),
    'UTF-16': ((HEAD + 'a.png\tgrün\n').encode('utf-16'), [('a.png', 'grün')]),
    'UTF-32': ((HEAD + 'a.png\tgrün\n').encode('utf-32'), [('a.png', 'grün')]),
    'gzip': (gzip.compress((HEAD + 'a.png\tone\n').encode()), [('a.png', 'one')]),
    'latin-1': (HEAD.encode() + b'a.png\tgr\xfcn\n', [('a.png', 'gr\udcfcn')]),
    'missing at the end': ('x\timage\tcaption\ty\nx\ta.png\tone\n', [('a.png', 'one')]),
    'empty at the end': (HEAD + 'a.png\tone\t\t\n', [('a.png', 'one')]),
    'absent': (HEAD + 'a.png\n', [('a.png', None)]),
    'space in the header': ('image \t caption\na.png\tone\n', [('a.png', 'one')]),
}


@pytest.mark.parametrize('name', TABLES)
def test_text(tmp_path, name):
    content, expected = TABLES[name]
    assert [values for _, values in rows_of(tmp_path / 'x', content)] == expected


@pytest.mark.parametrize(
    ('text', 'number', 'fault'),
    [
        ('a.png,a dog, a cat\nb.png,x\n', 2, '3 columns instead of 2'),
        ('a.png,"a ""dog""", a cat\nb.png,x\n', 2, '3 columns instead of 2'),
        ('b.png,x\n\na.png,a\0b\n', 4, 'null character'),
        ('b.png,x\na.png,' + 'y' * LONGEST_LINE + '\n', 3, 'longer than'),
    ],
    ids=['separator', 'separator after a quote', 'null', 'long'],
)
def test_a_damaged_row_is_one_row_with_its_line(tmp_path, text, number, fault):
    rows = rows_of(tmp_path / 'x.csv', 'image,caption\n' + text)
    assert len(rows) == 2
    assert ('b.png', 'x') in [values for _, values in rows]
    ((found, said),) = [row for row in rows if row[1] != ('b.png', 'x')]
    assert (found, fault in said) == (number, True)


@pytest.mark.parametrize(
    ('dialect', 'text', 'caption'),
    [
        (';', 'image;caption\na.png;"a; b, c"\n', 'a; b, c'),
        (Dialect('|'), 'image|caption\na.png|a\tb\n', 'a\tb'),
        ({'quoting': False}, HEAD + 'a.png\t"a dog"\n', '"a dog"'),
        ('\\t', HEAD + 'a.png\ta, b\n', 'a, b'),
    ],
)
def test_dialects(tmp_path, dialect, text, caption):
    assert rows_of(tmp_path / 'x.csv', text, dialect) == [(2, ('a.png', caption))]


@pytest.mark.parametrize('given', ['', ',,', '"', '\n', 3, {'quote': "'"}])
def test_refuses_dialects(tmp_path, given):
    with pytest.raises(InputError, match='separator'):
        rows_of(tmp_path / 'x', HEAD, given)


def test_a_csv_file_has_commas_or_tabs(tmp_path):
    assert rows_of(tmp_path / 'x.CSV', 'image,caption\na.png,b\n') == [(2, ('a.png', 'b'))]
    assert rows_of(tmp_path / 'x.csv', HEAD + 'a.png\ta, b\n') == [(2, ('a.png', 'a, b'))]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('a.png\ta dog\n', 'no column .image.*add a header line'),
        ('image\tcaption\tcaption\na.png\tx\ty\n', "2 columns with the name 'caption'"),
        ((HEAD + 'a.png\tx\n').encode('utf-16-le'), 'not a UTF-8 text table'),
        ((HEAD + 'a.png\tx\n').encode('utf-16')[:-1], 'damaged UTF-16'),
        (gzip.compress(HEAD.encode() * 50)[:40], 'cannot read .*ended before'),
        (b'\x1f\x8b' + b'x' * 50, 'cannot read'),
        ('i' * (LONGEST_LINE + 1), 'its first line has more than'),
    ],
    ids=['header', 'twice', 'UTF-16 without mark', 'half a character', 'cut gzip', 'no gzip', 'long header'],
)
def test_refuses(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        rows_of(tmp_path / 'x', content)


@pytest.mark.parametrize('name', ['x.tsv', 'x.jsonl', 'x.parquet'])
def test_refuses_what_is_not_a_file(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match='named pipe'):
        read_table(tmp_path / name, COLUMNS)


class TestJsonLines:
    def test_rows(self, tmp_path):
        lines = [
            '\ufeff{"image": "a.png", "caption": "one"}',
            '',
            '{"image": "b.png", "caption": ["two", "three"], "x": {"y": null}}',
            '{"image": "c.png"}',
            '{"image": "d.png", "cap',
            '[1]',
            '{"image": "e.png", "caption": "x", "caption": "y"}',
            '{"image": "f.png", "caption": ' + '[' * 100_000,
        ]
        found = rows_of(tmp_path / 'x.jsonl', '\r\n'.join(lines))
        assert found[:3] == [(1, ('a.png', 'one')), (3, ('b.png', ['two', 'three'])), (4, ('c.png', None))]
        assert [number for number, _ in found[3:]] == [5, 6, 7, 8]
        faults = ['is not valid JSON', 'not a JSON object', "the key 'caption' twice", 'too deeply']
        assert [text in fault for text, (_, fault) in zip(faults, found[3:], strict=True)] == [True] * 4

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            ('[{"image": "a.png", "caption": "x"}]', 'is a JSON list, not JSON lines'),
            ('{"path": "a.png", "title": "x"}', "no column 'image'; its columns are .'path', 'title'"),
        ],
    )
    def test_refuses(self, tmp_path, text, message):
        with pytest.raises(InputError, match=message):
            rows_of(tmp_path / 'x.json', text)


class TestParquet:
    def write(self, path, **columns):
        pyarrow = pytest.importorskip('pyarrow')
        parquet = pytest.importorskip('pyarrow.parquet')
        parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
        return path.read_bytes()

    def test_rows(self, tmp_path):
        data = self.write(
            tmp_path / 'x.parquet',
            image=['a.png', 'b.png', None, 'd.png'],
            n=[1, 2, 3, 4],
            caption=[['one', 'two'], None, ['x'], []],
        )
        assert rows_of(tmp_path / 'x.parquet', data) == [
            *[(1, ('a.png', ['one', 'two'])), (2, ('b.png', None)), (3, (None, ['x'])), (4, ('d.png', []))]
        ]

    def test_bytes_and_categories(self, tmp_path):
        pyarrow = pytest.importorskip('pyarrow')
        names = pyarrow.array(['a.png', 'a.png']).dictionary_encode()
        data = self.write(tmp_path / 'x.pq', image=names, caption=[b'one', b'gr\xfcn'])
        assert rows_of(tmp_path / 'x.pq', data) == [(1, ('a.png', 'one')), (2, ('a.png', 'gr\udcfcn'))]

    def test_refuses(self, tmp_path):
        data = self.write(tmp_path / 'x.parquet', image=['a.png'] * 9, title=['x'] * 9)
        with pytest.raises(InputError, match=r"no column 'caption'; its columns are .'image', 'title'"):
            rows_of(tmp_path / 'x.parquet', data)
        for damaged in (data[:-9], data[: len(data) // 2], b'', HEAD.encode()):
            with pytest.raises(InputError, match='cannot be read as Parquet'):
                rows_of(tmp_path / 'x.parquet', damaged)


CELLS = st.text(st.characters(codec='utf-8', exclude_characters='\0'), max_size=12) | st.text(
    'a"\t,;\n\r ', max_size=9
)
TABLE = st.lists(st.tuples(st.integers(0, 999).map('{}.png'.format), CELLS), max_size=8)


@settings(deadline=None, max_examples=60)
@given(rows=TABLE, separator=st.sampled_from('\t,;|'), end=st.sampled_from(['\n', '\r\n', '\r']))
def test_what_csv_writes_is_read(tmp_path_factory, rows, separator, end):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator=end)
    writer.writerows([COLUMNS, *rows])
    found = rows_of(tmp_path_factory.getbasetemp() / 'round', file.getvalue(), separator)
    # A carriage return at the end of a line belongs to the end of the line.
    expected = [(name, caption.rstrip('\r')) for name, caption in rows]
    assert [(name, caption.rstrip('\r')) for _, (name, caption) in found] == expected


@settings(deadline=None, max_examples=100)
@given(rows=TABLE)
def test_what_json_writes_is_read(tmp_path_factory, rows):
    text = ''.join(json.dumps(dict(zip(COLUMNS, row, strict=True))) + '\n' for row in rows)
    found = rows_of(tmp_path_factory.getbasetemp() / 'round.jsonl', text)
    assert found == list(enumerate(rows, 1))


@settings(deadline=None, max_examples=30)
@given(rows=TABLE)
def test_what_parquet_writes_is_read(tmp_path_factory, rows):
    pyarrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    path = tmp_path_factory.getbasetemp() / 'round.parquet'
    columns = {name: pyarrow.array([row[at] for row in rows], 'string') for at, name in enumerate(COLUMNS)}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=3)
    found = [tuple(row.values[column] for column in COLUMNS) for row in read_table(path, COLUMNS)]
    assert found == rows


@settings(deadline=None, max_examples=150)
@given(
    captions=st.lists(st.text('ab" ', max_size=7), min_size=1, max_size=8),
    separator=st.sampled_from('\t,;'),
    quoting=st.booleans(),
)
def test_no_quote_swallows_a_row(tmp_path_factory, captions, separator, quoting):
    """Captions written without any quoting: each line stays one row."""
    text = f'image{separator}caption\n' + ''.join(
        f'{number}.png{separator}{caption}\n' for number, caption in enumerate(captions)
    )
    dialect = Dialect(separator, quoting)
    found = rows_of(tmp_path_factory.getbasetemp() / 'lone', text, dialect)
    assert [(number, values[0]) for number, values in found] == [
        (number + 2, f'{number}.png') for number in range(len(captions))
    ]
    for caption, (_, values) in zip(captions, found, strict=True):
        assert values[1] in (caption, caption[1:-1].replace('""', '"'))


@settings(deadline=None, max_examples=100)
@given(
    data=st.binary(max_size=60) | st.text('a"\t,\n\r\0ü', max_size=60).map(str.encode),
    name=st.sampled_from(['x', 'x.csv', 'x.jsonl', 'x.tsv.gz']),
)
def test_no_bytes_end_in_a_traceback(tmp_path_factory, data, name):
    path = tmp_path_factory.getbasetemp() / name
    for content in (data, HEAD.encode() + data, b'image,caption\n' + data):
        try:
            rows = rows_of(path, content)
        except InputError:
            continue
        numbers = [number for number, _ in rows]
        assert numbers == sorted(set(numbers))
