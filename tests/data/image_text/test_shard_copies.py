"""Copies of damaged shards: what training reads of the shards is copied, and the damage is reported."""

from __future__ import annotations

import gzip
import json

import pytest

from clipdense.cli.app import main
from clipdense.data.image_text.filtering import filter_shards
from clipdense.data.image_text.filters import FilterRules
from clipdense.data.image_text.noun_prompts import add_nouns
from clipdense.data.image_text.shard_copies import damaged_shards
from clipdense.utils.errors import InputError
from clipdense.utils.jobs import Part
from clipdense.vocab.noun_phrases import NounExtractor

from .conftest import pack, read, samples, stream
from .test_shard_damage import BLOCK, members_end

RULES = FilterRules(min_size=1)
COPIES = {
    'filter': lambda source, out, **more: filter_shards(source, out, RULES, **more),
    'nouns': lambda source, out, **more: add_nouns(source, out, NounExtractor(), **more),
}
DAMAGE = {
    'in a member': lambda data: data[: members_end(data, 5) + BLOCK + 20],
    'between members': lambda data: data[: members_end(data, 6)],
    'in a header': lambda data: data[: members_end(data, 6) + 100],
    'rubbish': lambda data: data[: members_end(data, 6)] + b'\x07' * BLOCK + data[members_end(data, 7) :],
    'at once': lambda data: data[:700],
    'html': lambda data: b'<!doctype html>' * 100,
    'empty': lambda data: b'',
}


@pytest.mark.parametrize('copy', COPIES)
@pytest.mark.parametrize('damage', DAMAGE)
def test_copies_have_what_training_reads(tmp_path, log, copy, damage):
    source, out = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    (source / 'a.tar').write_bytes(DAMAGE[damage](pack(samples(0, 7))))
    (source / 'b.tar').write_bytes(pack(samples(100, 3)))
    expected = read(stream(source, shuffle=0))
    told = log[-1].removeprefix('skipped (shard): ')
    COPIES[copy](str(source), out)
    assert damaged_shards(out) == [told]
    assert log[-1] == f'skipped (shard): {told}'
    log.clear()
    assert read(stream(out, shuffle=0)) == expected
    assert log == []  # the copies are intact


@pytest.mark.parametrize('share', [0.5, 0.9, 0.999])
def test_a_cut_gzip(tmp_path, log, share):
    data = gzip.compress(pack(samples(0, 50)))
    (tmp_path / 'a.tgz').write_bytes(data[: int(len(data) * share)])
    (tmp_path / 'b.tar').write_bytes(pack(samples(100, 3)))
    add_nouns([str(tmp_path / name) for name in ('a.tgz', 'b.tar')], tmp_path / 'out', NounExtractor())
    (told,) = damaged_shards(tmp_path / 'out')
    assert told.startswith(f'{tmp_path}/a.tgz: damaged at byte ')
    assert read(stream(tmp_path / 'out', shuffle=0))[-3:] == [100, 101, 102]


def test_a_shard_that_cannot_be_opened_is_left_out_and_tried_again(tmp_path, log):
    (tmp_path / 'b.tar').write_bytes(pack(samples(100, 3)))
    urls = ['pipe:exit 3', str(tmp_path / 'b.tar')]
    for number in (1, 2):
        report = filter_shards(urls, tmp_path / 'out', RULES, part=Part(number, 2))
    assert (report.samples, report.kept) == (3, 3)
    (told,) = damaged_shards(tmp_path / 'out')
    assert told.startswith('pipe:exit 3: ')
    assert json.loads((tmp_path / 'out/report.json').read_text())['damaged'] == [told]


@pytest.mark.parametrize('copy', COPIES)
def test_more_damaged_shards_than_allowed_end_the_job(tmp_path, log, copy):
    for name in 'abc':
        (tmp_path / f'{name}.tar').write_bytes(b'')
    (tmp_path / 'd.tar').write_bytes(pack(samples(0, 3)))
    with pytest.raises(InputError, match=r'2 of 2 shards could not be used.*raise max_bad_fraction'):
        COPIES[copy](str(tmp_path), tmp_path / 'out')
    COPIES[copy](str(tmp_path), tmp_path / 'out', max_bad_fraction=1.0)  # continues
    assert len(damaged_shards(tmp_path / 'out')) == 3
    assert read(stream(tmp_path / 'out', shuffle=0)) == [0, 1, 2]


@pytest.mark.parametrize(
    'command', [('filter', '--min-size', '1'), ('nouns',)], ids=lambda command: command[0]
)
def test_the_command_names_damaged_shards_and_ends_with_1(tmp_path, capsys, command):
    (tmp_path / 'a.tar').write_bytes(pack(samples(0, 7))[:700])
    (tmp_path / 'b.tar').write_bytes(pack(samples(100, 3)))
    with pytest.raises(SystemExit) as ended:
        main([command[0], str(tmp_path), str(tmp_path / 'out'), *command[1:]])
    out, err = capsys.readouterr()
    assert ended.value.code == 1, err
    assert f'clipdense: damaged shard: {tmp_path}/a.tar: damaged at byte' in err
    assert str(tmp_path / 'out') in out
