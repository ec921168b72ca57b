"""Several readings that are one row of a table."""

from __future__ import annotations

import pytest

from clipdense.utils.errors import InputError


def each(*calls):
    """Calls that are all refused; the error of the last one is compared with the page."""

    def run(folder):
        for call in calls[:-1]:
            with pytest.raises(InputError):
                call(folder)
        calls[-1](folder)

    return run


def all_of(*calls):
    def run(folder):
        for call in calls:
            call(folder)

    return run
