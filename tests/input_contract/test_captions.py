"""The tables below "Captions" of docs/input_contract.md."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import unicodedata
from functools import partial

import numpy as np
import pytest
from mmengine.logging import MMLogger
from PIL import Image

from clipdense.data.classification.datasets import LabeledFolder
from clipdense.data.image_text import CocoCaptions, CsvPairs, ImageTextShards
from clipdense.evaluation.retrieval import Retrieval

SECTION = 'Captions'

HEAD = 'filepath\ttitle\n'
GOOD = 'a.png\ta cat\n'


@pytest.fixture(autouse=True)
def _logged(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield
    logger.removeHandler(caplog.handler)


def lengths(texts):
    """A tokenizer that only counts."""
    return np.array([[len(text)] for text in texts])


def png(path, color='red'):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (6, 5), color).save(path, 'PNG')


# Tables.


def pairs(folder, content, name='x.tsv', **settings):
    for image in ('a.png', 'b.png', '#.png', 'sub/c.png', 'café.png'):
        png(folder / image)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return CsvPairs(folder / name, tokenizer=lengths, **settings)


def table(content, expected=(['a cat'],), name='x.tsv', **settings):
    """A test of the captions of each image, and that each image can be read."""

    def read(folder):
        dataset = pairs(folder, content, name, **settings)
        assert [dataset.captions_of(index) for index in range(len(dataset))] == list(expected)
        assert dataset.rows.seen == dataset.rows.lost + len(expected) or settings.get('group')
        for index in range(len(dataset)):
            dataset[index]
        assert dataset.faults.lost == 0

    return read


def bad(row, name='x.tsv'):
    """A test of a row that is skipped while others are used."""
    first = json.dumps({'filepath': 'a.png', 'title': 'a cat'}) + '\n' if name == 'x.jsonl' else HEAD + GOOD
    row = row if isinstance(row, bytes) else row.encode()
    return table(first.encode() + row + b'\n', name=name)


def parquet(expected=(['a cat'], ['b cat']), **columns):
    def read(folder):
        pyarrow = pytest.importorskip('pyarrow')
        writer = pytest.importorskip('pyarrow.parquet')
        columns.setdefault('title', ['a cat', 'b cat'])
        buffer = io.BytesIO()
        writer.write_table(pyarrow.table({'filepath': ['a.png', 'b.png'], **columns}), buffer)
        table(buffer.getvalue(), expected, 'x.parquet')(folder)

    return read


def broken_parquet(folder):
    pytest.importorskip('pyarrow')
    pairs(folder, HEAD + GOOD, 'x.parquet')


def pipe(folder):
    os.mkfifo(folder / 'x.tsv')
    CsvPairs(folder / 'x.tsv')


def retrieval(folder):
    Retrieval(pairs(folder, HEAD + GOOD + GOOD))


TABLES = {
    'TSV with a header': table(HEAD + GOOD),
    'CSV with a header': table('filepath,title\na.png,"a cat, black"\n', (['a cat, black'],), 'x.csv'),
    'JSON lines': table('{"filepath": "a.png", "title": ["one", "two"]}\n', (['one', 'two'],), 'x.jsonl'),
    'Parquet': parquet(),
    'compressed with gzip': table(gzip.compress((HEAD + GOOD).encode()), name='x.tsv.gz'),
    'UTF-8 with a byte order mark': table('\ufeff' + HEAD + GOOD),
    'UTF-16 with a byte order mark': table((HEAD + GOOD).encode('utf-16')),
    'line ends LF, CRLF or CR': table((HEAD + GOOD).replace('\n', '\r')),
    'blank lines': table('\n' + HEAD + '\n\n' + GOOD + '\n  \n'),
    'quoted field over two lines': table(HEAD + 'a.png\t"one\ntwo"\n', (['one\ntwo'],)),
    'doubled quotes in a quoted field': table(HEAD + 'a.png\t"a ""cat"""\n', (['a "cat"'],)),
    'quote that is not closed': table(HEAD + 'a.png\t"a cat\nb.png\t"x"\n', (['"a cat'], ['x'])),
    'text after the closing quote': table(HEAD + 'a.png\t"a" cat\n', (['"a" cat'],)),
    'quotes with a backslash': table(HEAD + 'a.png\t"a \\"cat\\""\n', (['"a \\"cat\\""'],)),
    'line that begins with `#`': table(HEAD + '#.png\t# a cat\n', (['# a cat'],)),
    'columns in any order, and more columns': table('x\ttitle\tfilepath\n1\ta cat\ta.png\n'),
    'empty columns after the last, or missing ones': table(
        'filepath\ttitle\tx\n' + GOOD + 'b.png\tx\t\t\t\n', (['a cat'], ['x'])
    ),
    'column name in another Unicode form': table(
        unicodedata.normalize('NFD', ' filepath\tété\n') + GOOD, caption_key='été'
    ),
    'path in another Unicode form than on disk': table(
        HEAD + unicodedata.normalize('NFD', 'café.png\tx\n'), (['x'],)
    ),
    'path with backslashes': table(HEAD + 'sub\\c.png\tx\n', (['x'],)),
    'caption of 200,000 characters': table(HEAD + 'a.png\t' + 'y' * 200_000, (['y' * 200_000],)),
    'several captions of an image in several rows': table(
        HEAD + GOOD + './a.png\ttwo\n', (['a cat', 'two'],), group=True
    ),
    'row with too many columns': bad('b.png\tone\ttwo'),
    'row without a caption': bad('b.png\t'),
    'row with a caption of spaces': bad('b.png\t  '),
    'row without an image': bad('\tone'),
    'row in Latin-1': bad(b'b.png\tgr\xfcn'),
    'row with a null character': bad('b.png\tone\0'),
    'row with a URL': bad('https://example.org/b.png\tone'),
    'row of more than a million characters': bad('b.png\t' + 'y' * (1 << 20)),
    'JSON line that is not an object': bad('["b.png", "one"]', 'x.jsonl'),
    'JSON line that is cut': bad('{"filepath": "b.png", "ti', 'x.jsonl'),
    'JSON line with a repeated key': bad('{"filepath": "b.png", "title": "x", "title": "y"}', 'x.jsonl'),
    'JSON line whose caption is a number': bad('{"filepath": "b.png", "title": 3}', 'x.jsonl'),
    'JSON line nested 100,000 times': bad('{"title": ' + '[' * 100_000, 'x.jsonl'),
    'Parquet row without a caption': parquet((['a cat'],), title=['a cat', None]),
    'any bad row with `max_bad_fraction=0`': table(HEAD + GOOD + 'b.png\n', max_bad_fraction=0),
    'more than ten bad rows': table(HEAD + 'b.png\n' * 11 + GOOD),
    'unquoted commas in a CSV': table(
        'filepath,title\na.png,a cat\nb.png,a dog, a bird, a cat\n', name='x.csv'
    ),
    'no header': table(GOOD),
    'other column names': table('image\tcaption\n' + GOOD),
    'column name twice': table('filepath\ttitle\ttitle\na.png\tx\ty\n'),
    'header and no rows': table(HEAD),
    'UTF-16 without a mark': table((HEAD + GOOD).encode('utf-16-le')),
    'gzip file that is cut': table(gzip.compress((HEAD + GOOD).encode())[:-9]),
    'JSON list': table('[{"filepath": "a.png", "title": "one"}]', name='x.json'),
    'file that is not Parquet': broken_parquet,
    'named pipe': pipe,
    'path outside `root`': lambda folder: pairs(folder, HEAD + '../a.png\tone\n', root=folder),
    'same image in several rows, for retrieval': retrieval,
}


# Shards.


def image(form='PNG'):
    file = io.BytesIO()
    Image.new('RGB', (6, 5)).save(file, form)
    return file.getvalue()


def pack(*members):
    """A shard of (name, bytes), or (name, type of the member)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w', format=tarfile.GNU_FORMAT, errors='surrogateescape') as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if len(content) == 1:
                info.type, info.linkname = content, '0.png'
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def sample(key, text='one', ending='txt'):
    return (f'{key}.png', image()), (f'{key}.{ending}', text if isinstance(text, bytes) else text.encode())


def shard(*members, expected=1, caption='txt', more=()):
    """A test of the number of samples in a shard, which has a good one first."""

    def read(folder):
        for number, content in enumerate([members, *more]):
            content = content if isinstance(content, bytes) else pack(*content)
            (folder / f'{number}.tar').write_bytes(content)
        dataset = ImageTextShards(folder, 1, tokenizer=lengths, caption=caption, shuffle=0)
        assert len(list(dataset)) == expected

    return read


FIRST = sample('first')


def announced(name, size, kind, keep=b''):
    info = tarfile.TarInfo(name)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = kind
    place = slice(483, 495) if kind == tarfile.GNUTYPE_SPARSE else slice(124, 136)
    block[place] = b'\x80' + size.to_bytes(11, 'big')
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block) + keep


def after_first(block, *members, expected):
    """A shard of one sample, a header block, and more samples."""

    def read(folder):
        start = pack(*FIRST).rstrip(b'\0')
        start += bytes(-len(start) % 512)
        (folder / '0.tar').write_bytes(start + block + pack(*members))
        (folder / '1.tar').write_bytes(pack(*sample('other')))
        dataset = ImageTextShards(folder, 1, tokenizer=lengths, shuffle=0)
        assert len(list(dataset)) == expected

    return read


def link(folder):
    (folder / '000000.tar').symlink_to('000000.tar')
    ImageTextShards(folder, 1)


RECORD = json.dumps({'text': ['one', 'two']})
DEEP = '{"text": ' + '[' * 100_000
SHARDS = {
    'image and `.txt`': shard(('0.JPG', image('JPEG')), ('0.txt', b'one')),
    'captions in `.json`': shard(*sample('0', RECORD, 'json'), caption='json:text'),
    'one of two captions is damaged': shard(
        *sample('0', 'one'), ('0.json', DEEP.encode()), caption=['json:text', 'txt']
    ),
    'names in two Unicode forms': shard(('\xe9.png', image()), ('e\u0301.txt', b'one')),
    'names that are not UTF-8': shard(('\udce9.png', image()), ('\udce9.txt', b'one')),
    'folders and members without a dot': shard(('x', tarfile.DIRTYPE), ('README', b'text'), *FIRST),
    'sample without an image': shard(*FIRST, ('0.txt', b'one')),
    'sample without a caption': shard(*FIRST, ('0.png', image())),
    'sample split over two shards': shard(
        *FIRST, sample('0')[0], more=[[sample('0')[1], *sample('1')]], expected=2
    ),
    'caption in Latin-1': shard(*FIRST, *sample('0', b'gr\xfcn')),
    'JSON nested 100,000 times': shard(
        *sample('first', RECORD, 'json'), *sample('0', DEEP, 'json'), caption='json:text'
    ),
    'link instead of a file': shard(*FIRST, ('0.png', tarfile.LNKTYPE), ('0.txt', b'one')),
    'device or named pipe': shard(*FIRST, ('0.png', tarfile.FIFOTYPE), ('0.txt', b'one')),
    'sparse member of 20 GB': after_first(
        announced('0.png', 20 << 30, tarfile.GNUTYPE_SPARSE), ('0.txt', b'one'), expected=2
    ),
    'key twice': shard(*FIRST, *sample('0'), *FIRST, expected=2),
    'truncated shard': shard(*FIRST, more=[pack(*sample('0'), *sample('1'))[:3500]], expected=2),
    'header that announces 20 GB for a name': after_first(
        announced('x', 20 << 30, tarfile.GNUTYPE_LONGNAME), expected=1
    ),
    'empty file': shard(*FIRST, more=[b'']),
    'only damaged shards': shard(more=[b'<html>', b'']),
    'no such shard': lambda folder: ImageTextShards(folder / 'x.tar', 1),
    'link to a missing file, or to itself': link,
    'range of more than a million shards': lambda folder: ImageTextShards(
        f'{folder}/{{0..999999999}}.tar', 1
    ),
}


# COCO captions.


def coco(images, annotations, expected=1):
    def read(folder):
        png(folder / 'a.png')
        content = {'images': [{'id': 0, 'file_name': 'a.png'}, *images]}
        if annotations is not None:
            content['annotations'] = [{'image_id': 0, 'caption': 'a cat'}, *annotations]
        (folder / 'x.json').write_text(json.dumps(content))
        dataset = CocoCaptions(folder / 'x.json', folder, tokenizer=lengths)
        assert len(dataset) == 1
        assert len(dataset.captions_of(0)) == expected

    return read


COCO = {
    'several captions of an image': coco([], [{'image_id': 0, 'caption': 'two'}], 2),
    'image without captions': coco([{'id': 1, 'file_name': 'a.png'}], []),
    'caption of an unknown image': coco([], [{'image_id': '0', 'caption': 'x'}]),
    'annotation without `caption`': coco([], [{'image_id': 0}]),
    'image without `file_name`': coco([{'id': 1, 'file_name': None}], []),
    'missing image file': coco([{'id': 1, 'file_name': 'b.png'}], [{'image_id': 1, 'caption': 'x'}]),
    'repeated image id': coco([{'id': 0, 'file_name': 'b.png'}], []),
    'no list of annotations': coco([], None),
}


# Folders.


def labeled(folder, names=('cat', 'hot dog'), listed=None, given=None, damage=None):
    for name in ('cat/1.png', 'hot_dog/1.png'):
        png(folder / name)
    if listed is not None:
        (folder / 'classes.txt').write_text(listed)
    if damage == 'image':
        (folder / 'cat/1.png').write_bytes(b'<html>')
    elif damage == 'empty':
        (folder / 'ant').mkdir()
    dataset = LabeledFolder(folder, class_names=given)
    assert dataset.class_names == names
    assert [dataset[index]['labels'] for index in range(2)] == {
        'image': [-1, 1],
        'empty': [1, 2],
        None: [0, 1],
    }[damage]


FOLDERS = {
    'folder names': labeled,
    '`classes.txt` with folder, tab, name': partial(
        labeled, names=('tom', 'sausage'), listed='hot_dog\tsausage\ncat\ttom\n'
    ),
    'unreadable image': partial(labeled, damage='image'),
    'folder without images': partial(labeled, names=('ant', 'cat', 'hot dog'), damage='empty'),
    'names of the folders in another order': partial(labeled, given=['hot dog', 'cat']),
    'number of names other than of folders': partial(labeled, given=['cat']),
    'line without a tab among others': partial(labeled, listed='cat\ttom\nhot_dog\n'),
    'folder with two names': partial(labeled, listed='cat\ttom\ncat\tx\nhot_dog\ty\n'),
}

READ = TABLES | SHARDS | COCO | FOLDERS


def test_row(row, check):
    check(row, READ)
