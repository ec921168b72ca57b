"""Shards with members that announce more than they hold, or that are not files."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc

import pytest

from clipdense.data.image_text.shards import ImageTextShards
from clipdense.utils.errors import InputError

from .conftest import make_image, pack, read, sample, samples, stream

BLOCK = 512
GIGABYTES = 20 << 30


def header(name, size=0, kind=tarfile.REGTYPE):
    """A header block alone."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = '000000.png'
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse_header(name, size):
    """An old GNU sparse member of ``size`` bytes without any data."""
    block = bytearray(header(name, 0, tarfile.GNUTYPE_SPARSE))
    block[483:495] = b'\x80' + size.to_bytes(11, 'big')
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return bytes(block)


def members(*parts):
    """Members one after another, from packed samples and single headers."""
    return b''.join(part if isinstance(part, bytes) else pack(part)[: _size(part)] for part in parts) + bytes(
        2 * BLOCK
    )


def _size(content):
    return sum(BLOCK + -(-len(data) // BLOCK) * BLOCK for _, data in content)


BAD = {
    'sparse': (sparse_header('000009.png', GIGABYTES), 'more than 256 MB'),
    'symbolic link': (header('000009.png', kind=tarfile.SYMTYPE), 'a link'),
    'hard link': (header('000009.png', kind=tarfile.LNKTYPE), 'a link'),
    'named pipe': (header('000009.png', kind=tarfile.FIFOTYPE), 'not a regular file'),
    'device': (header('000009.png', kind=tarfile.CHRTYPE), 'not a regular file'),
}


@pytest.mark.parametrize('name', BAD)
def test_a_member_that_is_not_read_is_the_failure_of_its_sample(tmp_path, log, name):
    block, cause = BAD[name]
    data = members(samples(0, 2), block, [('000009.txt', b'9')], samples(3, 2))
    (tmp_path / 'a.tar').write_bytes(data)
    dataset = stream(tmp_path, shuffle=0)
    assert read(dataset) == [0, 1, 3, 4]
    ((found, count),) = dataset.faults.causes.items()
    assert (cause in found, count, dataset.faults.seen) == (True, 1, 5)
    assert 'image of sample 000009' in log[0]


def test_links_alone_do_not_vanish(tmp_path, log):
    links = [header(f'000009.{kind}', kind=tarfile.LNKTYPE) for kind in ('png', 'txt')]
    (tmp_path / 'a.tar').write_bytes(members(samples(0, 2), *links))
    dataset = stream(tmp_path, shuffle=0)
    assert read(dataset) == [0, 1]
    assert dataset.faults.causes == {'a link': 1}


def test_folders_and_other_members_are_no_samples(tmp_path, log):
    parts = (header('a', kind=tarfile.DIRTYPE), [('README', b'x'), ('__meta__/x.txt', b'')], samples(0, 2))
    (tmp_path / 'a.tar').write_bytes(members(*parts))
    dataset = stream(tmp_path, shuffle=0)
    assert read(dataset) == [0, 1]
    assert dataset.faults.seen == 2


@pytest.mark.parametrize(
    ('block', 'kept'),
    [
        (header('x', GIGABYTES, tarfile.GNUTYPE_LONGNAME), 2),
        (header('x', GIGABYTES, tarfile.XHDTYPE), 2),
        (header('x', GIGABYTES, tarfile.XGLTYPE), 2),
        (header('000009.png', 1 << 62), 3),
        (header('000009.cls', 1 << 62), 3),
        (header('000009.cls', 1000), 3),
    ],
    ids=['long name', 'PAX', 'global PAX', 'image', 'other', 'small'],
)
def test_a_header_that_announces_too_much_ends_the_shard(tmp_path, log, block, kept):
    (tmp_path / 'a.tar').write_bytes(members(samples(0, 3), block)[:-BLOCK])
    (tmp_path / 'b.tar').write_bytes(pack(samples(100, 2)))
    dataset = stream(tmp_path, shuffle=0)
    assert read(dataset) == [*range(kept), 100, 101]
    assert dataset.shard_faults.causes == {'shard': 1}


def test_the_limit_is_an_option(tmp_path, log, monkeypatch):
    noise = make_image(3) + bytes(70_000)  # data behind the image is ignored by readers of PNG
    (tmp_path / 'a.tar').write_bytes(pack(samples(0, 3) + sample(3, png=noise)))
    assert read(stream(tmp_path, shuffle=0)) == [0, 1, 2, 3]
    monkeypatch.setenv('CLIPDENSE_MAX_MEMBER_MB', '0.07')
    dataset = stream(tmp_path, shuffle=0)
    assert read(dataset) == [0, 1, 2]
    assert list(dataset.faults.causes) == ['more than 0 MB, the limit of CLIPDENSE_MAX_MEMBER_MB']
    monkeypatch.setenv('CLIPDENSE_MAX_MEMBER_MB', 'much')
    with pytest.raises(InputError, match="a number of megabytes such as 500, got 'much'"):
        read(stream(tmp_path))


@pytest.mark.parametrize('name', ['000009.png', '000009.cls'])
def test_a_bomb_needs_little_memory(tmp_path, log, monkeypatch, name):
    """A gzip file of 100 KB with a member of 100 MB."""
    monkeypatch.setenv('CLIPDENSE_MAX_MEMBER_MB', '50')
    with gzip.open(tmp_path / 'a.tgz', 'wb', 1) as file:
        file.write(members(samples(0, 2), header(name, 100 << 20))[: -2 * BLOCK])
        for _ in range(100):
            file.write(bytes(1 << 20))
        file.write(members([('000009.txt', b'9')], samples(3, 1)))
    tracemalloc.start()
    try:
        assert read(stream(tmp_path, shuffle=0)) == [0, 1, 3]
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ('record', 'cause'),
    [
        (b'{"text": ' + b'[' * 200_000, 'caption is not JSON'),
        (b'{"text": "1", "text": "2"}', 'caption is not JSON'),
        (b'{"text": {"en": "1"}}', 'no caption'),
        (b'\xff', 'caption is not JSON'),
        (b'', 'caption is not JSON'),
    ],
    ids=['deep', 'repeated key', 'object', 'not UTF-8', 'empty'],
)
def test_bad_records_are_the_failure_of_their_sample(tmp_path, log, record, cause):
    good = sample(0, json=b'{"text": "0"}', txt=None)
    (tmp_path / 'a.tar').write_bytes(pack(good + sample(1, json=record, txt=None)))
    dataset = stream(tmp_path, caption='json:text')
    assert read(dataset) == [0]
    assert dataset.faults.causes == {cause: 1}


@pytest.mark.parametrize('captions', [['txt', 'json:text'], ['json:text', 'txt']])
def test_one_good_caption_of_two_is_enough(tmp_path, captions):
    broken = sample(1, json=b'{"text": ')
    (tmp_path / 'a.tar').write_bytes(pack(broken + sample(2, txt=b'\xff', json=b'{"text": "2"}')))
    dataset = stream(tmp_path, caption=captions, shuffle=0)
    assert read(dataset) == [1, 2]
    assert dataset.faults.lost == 0


def test_names_in_any_bytes_and_forms(tmp_path, log):
    # A composed letter in one name, a combining accent in the other; and a byte that is not UTF-8.
    content = [
        *[('caf\u00e9.png', make_image(1)), ('cafe\u0301.txt', b'1')],
        *[('x\udce9.PNG', make_image(2)), ('x\udce9.txt', b'\xef\xbb\xbf2')],
    ]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w', format=tarfile.GNU_FORMAT, errors='surrogateescape') as tar:
        for name, data in content:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (tmp_path / 'a.tar').write_bytes(file.getvalue())
    assert read(stream(tmp_path, shuffle=0)) == [1, 2]


def test_a_sample_that_is_split_over_shards_is_counted_twice(tmp_path, log):
    (tmp_path / 'a.tar').write_bytes(pack(samples(0, 2) + sample(7, txt=None)))
    (tmp_path / 'b.tar').write_bytes(pack(sample(7, png=None) + samples(3, 2)))
    dataset = stream(tmp_path, shuffle=0)
    assert read(dataset) == [0, 1, 3, 4]
    assert dataset.faults.causes == {'no caption': 1, 'no image': 1}
    assert 'sample 000007, which has .png' in log[0]


def test_dots_in_names_are_explained(tmp_path, log):
    (tmp_path / 'a.tar').write_bytes(pack([*samples(0, 1), ('a.v2.png', make_image(1)), ('a.v2.txt', b'1')]))
    assert read(stream(tmp_path, shuffle=0)) == [0]
    assert log[0].endswith('sample a, which has .v2.png .v2.txt')


def test_without_a_budget_the_first_bad_shard_ends_the_run(tmp_path):
    (tmp_path / 'a.tar').write_bytes(b'<html>')
    (tmp_path / 'b.tar').write_bytes(pack(samples(0, 2)))
    with pytest.raises(InputError, match='1 of 1 shards could not be used'):
        list(ImageTextShards(tmp_path, 1, shuffle=0, max_bad_fraction=0))


def test_for_evaluation_broken_images_are_left_out(tmp_path, log):
    (tmp_path / 'a.tar').write_bytes(pack(samples(0, 2) + sample(2, png=b'x') + samples(3, 2)))
    dataset = stream(tmp_path, shuffle=0)
    assert read(dataset) == [0, 1, 3, 3, 4]
    assert read(dataset.unreplaced()) == [0, 1, 3, 4]
