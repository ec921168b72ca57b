"""Errors that the user can mend.  The command line prints them as one line and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input; the message is one clear line that says what to do."""


class CheckpointError(InputError):
    """A weights file that is damaged, unsafe, of an unknown layout, or that does not fit the model."""


def refuse_unknown(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Refuse names that are not known, with the nearest one that is.

    Args:
        given: names that were passed.
        known: names that are accepted.
        what: what they belong to, for the message: "GroupViT weights have no override".

    Raises:
        InputError: the first name that is not known.
    """
    known = list(known)
    for name in given:
        if name not in known:
            accepted = ', '.join(known) or 'none'
            raise InputError(f'{what} {name!r}; known: {accepted}.{nearest(name, known)}')


def one_line(error: BaseException) -> str:
    """What an error says.  From a data-loading process torch sends it inside a traceback, whose end it is."""
    text = str(error)
    if 'Original Traceback' in text:
        text = text.rpartition(f'{type(error).__name__}: ')[2]
    return ' '.join(text.split())


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the known name closest to ``name``, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f' Did you mean {by_lower[match[0]]!r}?' if match else ''
