"""Jobs in parts: which part does what, what a folder refuses, and when it is complete."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from clipdense.utils.errors import InputError, InUse
from clipdense.utils.jobs import STATE, Job, Part, refuse_incomplete, refuse_parts

SETTINGS = {'kind': 'noun', 'sizes': (1, 2)}


def job(folder, text=None, command='nouns', **settings):
    return Job(folder, command, {**SETTINGS, **settings}, Part.parse(text))


def run(folder, text=None, merge=None, **settings):
    one = job(folder, text, **settings)
    with one.running():
        one.finish({'part': one.part.number}, merge)
    return one


@pytest.mark.parametrize(
    ('text', 'numbers'),
    [(None, (1, 1)), ('1/1', (1, 1)), ('2/8', (2, 8)), (' 8 / 8 ', (8, 8))],
)
def test_parts(text, numbers):
    part = Part.parse(text)
    assert (part.number, part.count) == numbers


@pytest.mark.parametrize(
    'text', ['', '0/4', '5/4', '-1/4', '1', '1/0', 'one/two', '1/4/2', '1.5/4', '9' * 30]
)
def test_texts_that_are_no_part(text):
    with pytest.raises(InputError, match=r'a part is I/N with I from 1 to N'):
        Part.parse(text)


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_each_item_is_in_one_part(count):
    parts = [Part(number, count).of(range(7)) for number in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == list(range(7))


def test_more_parts_than_items():
    with pytest.raises(InputError, match='3 shards cannot be divided into 4 parts'):
        Part(1, 4).of('abc', 'shard')


def test_the_last_part_merges_once(tmp_path):
    merged = []
    for text in ('2/3', '1/3'):
        run(tmp_path, text, lambda: merged.append(1))
        assert not merged
    assert run(tmp_path, '3/3', lambda: merged.append(1)).complete
    run(tmp_path, '2/3', lambda: merged.append(1))
    assert merged == [1]
    refuse_incomplete(tmp_path)


def test_a_merge_that_fails_is_made_by_the_next_call(tmp_path):
    def fail():
        raise RuntimeError('stop')

    run(tmp_path, '1/2', fail)
    with pytest.raises(RuntimeError):
        run(tmp_path, '2/2', fail)
    with pytest.raises(InputError, match='is not merged yet: run one of the parts'):
        refuse_incomplete(tmp_path)
    assert run(tmp_path, '1/2', lambda: None).complete
    refuse_incomplete(tmp_path)


def test_an_incomplete_folder_names_what_is_missing(tmp_path):
    run(tmp_path, '3/4')
    with pytest.raises(InputError, match=r'incomplete: run parts 1/4, 2/4, 4/4 of `clipdense nouns`'):
        refuse_incomplete(tmp_path)
    refuse_incomplete(tmp_path / 'missing')
    with pytest.raises(InputError, match='was started as 4 parts: give --part I/4'):
        refuse_parts(tmp_path)


@pytest.mark.parametrize(
    ('text', 'changes', 'message'),
    [
        ('1/3', {}, 'was started as 4 parts, not 3: give --part I/4'),
        (None, {}, 'was started as 4 parts, not 1'),
        ('2/4', {'kind': 'word'}, 'another kind ."noun", now "word".'),
        ('2/4', {'command': 'filter'}, 'belongs to `clipdense nouns`, not `clipdense filter`'),
        ('2/4', {}, None),
    ],
    ids=['other count', 'no parts', 'other settings', 'other command', 'the same'],
)
def test_what_a_folder_refuses(tmp_path, text, changes, message):
    run(tmp_path, '1/4')
    if message is None:
        assert run(tmp_path, text, **changes).missing == [3, 4]
        return
    with pytest.raises(InputError, match=message):
        run(tmp_path, text, **changes)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'a.tar': 'x'}, 'exists and does not belong to a job'),
        ({f'{STATE}/job.json': '{"format": "other"}'}, 'is damaged or of another version'),
        ({f'{STATE}/job.json': '[1]'}, 'is damaged or of another version'),
        ({f'{STATE}/job.json': '{"form'}, 'not valid JSON|JSON'),
    ],
    ids=['other files', 'other version', 'a list', 'cut'],
)
def test_folders_of_something_else(tmp_path, content, message):
    for name, text in content.items():
        path = tmp_path / 'out' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        run(tmp_path / 'out')


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(InputError, match='is not a folder'):
        run(tmp_path / 'file')


def test_a_part_that_runs_is_refused_in_a_second_process(tmp_path):
    code = (
        'import sys; from clipdense.utils.jobs import Job, Part\n'
        f'job = Job(sys.argv[1], "nouns", {SETTINGS!r}, Part.parse(sys.argv[2]))\n'
        'with job.running():\n    print("running")\n'
    )
    with job(tmp_path, '1/2').running():
        same, other = (
            subprocess.run(
                [sys.executable, '-c', code, str(tmp_path), text], capture_output=True, text=True, check=False
            )
            for text in ('1/2', '2/2')
        )
    assert 'part 1/2 of' in same.stderr
    assert 'in use by another run' in same.stderr
    assert InUse.__name__ in same.stderr
    assert other.stdout == 'running\n'


def test_reports_are_kept(tmp_path):
    run(tmp_path, '2/2')
    assert run(tmp_path, '1/2').reports == {1: {'part': 1}, 2: {'part': 2}}
    assert json.loads((tmp_path / STATE / 'job.json').read_text())['settings']['sizes'] == [1, 2]
