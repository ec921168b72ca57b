"""Every row of a section of docs/input_contract.md is a test of the module that names the section.

A module has ``SECTION``, a heading of the page, and ``READ``, which maps the first column of each row to a
function of a scratch folder that reads such an input and asserts what it read.  ``test_row(row, check)`` then
calls ``check(row, READ)``.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

from clipdense.utils.errors import InputError

PAGE = Path(__file__).parents[2] / 'docs/input_contract.md'


class Row(NamedTuple):
    """A row of a table: the input, ``accepted``, ``refused`` or ``assumed``, and the text beside it."""

    input: str
    result: str
    text: str

    @property
    def quoted(self) -> list[str]:
        """The parts in backticks."""
        return re.findall(r'`([^`]+)`', self.text)


def rows_of(section: str) -> list[Row]:
    """The rows of all tables below a heading of the page."""
    body = re.split(rf'(?m)^## {re.escape(section)}$', PAGE.read_text('utf-8'), maxsplit=1)[1]
    lines = re.split(r'(?m)^## ', body, maxsplit=1)[0].splitlines()
    cells = [
        [cell.strip() for cell in line.strip('|').split(' | ')] for line in lines if line.startswith('| ')
    ]
    return [Row(*row) for row in cells if row[1] in ('accepted', 'refused', 'assumed')]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each row, and fail where the page and the module list different inputs."""
    if 'row' not in metafunc.fixturenames:
        return
    rows = rows_of(metafunc.module.SECTION)
    listed, tried = {row.input for row in rows}, set(metafunc.module.READ)
    assert listed == tried, f'only on the page: {listed - tried}; only in the test: {tried - listed}'
    metafunc.parametrize('row', rows, ids=[row.input for row in rows])


@pytest.fixture
def check(tmp_path, caplog):
    """``check(row, READ)``: the input is accepted silently, refused or warned of as the row says."""

    def run(row: Row, read: dict) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            if row.result == 'refused':
                with pytest.raises(InputError) as refusal:
                    read[row.input](tmp_path)
                said = str(refusal.value)
            else:
                read[row.input](tmp_path)  # asserts the value it reads
                said = '\n'.join([*(str(one.message) for one in caught), *caplog.messages])
        if row.result == 'accepted':
            assert not said, f'accepted, but not in silence: {said}'
            return
        missing = [text for text in row.quoted if text not in said]
        assert row.quoted, 'the page quotes no message'
        assert not missing, f'{missing} not in: {said}'

    return run
