"""Streams of shards: files of fsspec, commands, and failures that are survived at the same byte."""

from __future__ import annotations

import fsspec
import pytest

from clipdense.data.image_text import streams
from clipdense.data.image_text.shard_files import list_shards
from clipdense.data.image_text.streams import SteadyStream, open_stream
from clipdense.utils.errors import InputError, MissingPackage

from .conftest import ALL, read, stream

DATA = bytes(range(256)) * 9000  # more than two chunks


@pytest.fixture(autouse=True)
def log(monkeypatch):
    """Lines that were logged; nothing waits."""
    lines = []
    monkeypatch.setattr(streams, 'print_log', lambda line, logger, level: lines.append(line))
    monkeypatch.setattr(streams, '_WAIT', 0)
    monkeypatch.setenv('CLIPDENSE_STREAM_RETRIES', '3')
    return lines


@pytest.fixture
def memory():
    store = fsspec.filesystem('memory')
    store.pipe('/bucket/a.bin', DATA)
    yield store
    store.rm('/bucket', recursive=True)


@pytest.mark.parametrize('kind', ['path', 'file', 'memory', 'pipe'])
@pytest.mark.parametrize('size', [-1, 1000, 1 << 20])
def test_all_bytes_in_order(memory, tmp_path, kind, size):
    (tmp_path / 'a.bin').write_bytes(DATA)
    path = tmp_path / 'a.bin'
    url = {
        'path': str(path),
        'file': f'file://{path}',
        'memory': 'memory://bucket/a.bin',
        'pipe': f'pipe:cat {path}',
    }
    file = open_stream(url[kind])
    parts = [file.read(size)] if size < 0 else list(iter(lambda: file.read(size), b''))
    file.close()
    assert b''.join(parts) == DATA


@pytest.mark.parametrize('failures', [1, 3])
def test_a_store_that_fails_goes_on_at_the_same_byte(memory, monkeypatch, log, failures):
    real, left = fsspec.open, [failures]

    class Failing:
        def __init__(self, url, mode):
            self.inner = real(url, mode)

        def __enter__(self):
            self.file = self.inner.__enter__()
            return self

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

        def seek(self, position):
            self.file.seek(position)

        def read(self, size):
            if self.file.tell() and left[0]:
                left[0] -= 1
                raise ConnectionError('reset by peer')
            return self.file.read(size)

    monkeypatch.setattr(fsspec, 'open', Failing)
    assert SteadyStream('memory://bucket/a.bin').read(-1) == DATA
    assert len(log) == failures
    assert log[0].startswith('memory://bucket/a.bin: reset by peer at byte 1048576; trying again')


def test_a_command_that_fails_is_run_again(tmp_path, log):
    """The first run writes half and fails; the second is read from there on."""
    (tmp_path / 'a.bin').write_bytes(DATA)
    half = len(DATA) // 2
    command = (
        f'cd {tmp_path}; if [ -e again ]; then cat a.bin; else touch again; head -c {half} a.bin; exit 7; fi'
    )
    assert SteadyStream(f'pipe:{command}').read(-1) == DATA
    assert f'the command ended with status 7 at byte {half}' in log[0]


@pytest.mark.parametrize(
    ('command', 'message'),
    [
        ('exit 3', r'the command ended with status 3 \(after 4 attempts\)'),
        ('sleep 100', r'no data for 0.2 s \(after 4 attempts\)'),
    ],
    ids=['fails', 'stalls'],
)
def test_what_does_not_recover_is_an_error(monkeypatch, log, command, message):
    monkeypatch.setenv('CLIPDENSE_STREAM_TIMEOUT', '0.2')
    with pytest.raises(OSError, match=message):
        SteadyStream(f'pipe:{command}').read(10)
    assert len(log) == 3


def test_a_missing_object_is_not_tried_again(log):
    with pytest.raises(FileNotFoundError):
        SteadyStream('memory://nowhere/a.tar').read(10)
    assert not log


def test_shards_of_a_store(folder, memory):
    for path in folder.glob('*.tar'):
        memory.pipe(f'/bucket/{path.name}', path.read_bytes())
    assert read(stream('memory://bucket/s-{00..05}.tar', shuffle=0)) == ALL
    assert read(stream('memory://bucket/*.tar', shuffle=0)) == ALL


@pytest.mark.parametrize(
    ('url', 'error', 'message'),
    [
        ('zzz://bucket/0.tar', InputError, 'unsupported URL scheme zzz; use file, pipe, https, s3'),
        ('memory://bucket/*.tgz', InputError, 'no shards in memory://bucket/'),
        ('oss://bucket/0.tar', MissingPackage, r"pip install 'clipdense\[shards\]'"),
    ],
)
def test_urls_that_are_refused(memory, url, error, message):
    with pytest.raises(error, match=message):
        list_shards(url)


@pytest.mark.parametrize('value', ['-1', 'many', 'nan'])
def test_settings_that_are_no_number(monkeypatch, value):
    monkeypatch.setenv('CLIPDENSE_STREAM_TIMEOUT', value)
    with pytest.raises(InputError, match='CLIPDENSE_STREAM_TIMEOUT must be a number of at least 0'):
        SteadyStream('pipe:true')
