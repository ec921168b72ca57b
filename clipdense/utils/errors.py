"""Errors caused by user input.  The command line prints them as one line and exits with 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Invalid input; the message is one line with the problem and what to do."""


class CheckpointError(InputError):
    """A weights file that is damaged, unsafe, of an unknown layout, or does not fit the model."""


class MissingPackage(InputError):
    """A package that the input needs is not installed, or its release lacks what is needed."""


class InUse(InputError):
    """Another process uses a folder alone."""


class WriteError(InputError):
    """A file or folder that cannot be written: a full disk, a quota, or missing permission."""


def refuse_unknown(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise an error for unknown names, with the nearest known name.

    Args:
        given: names that were passed.
        known: names that are accepted.
        what: start of the message, such as "GroupViT weights have no override".

    Raises:
        InputError: for the first unknown name.
    """
    known = list(known)
    for name in given:
        if name not in known:
            accepted = ', '.join(known) or 'none'
            raise InputError(f'{what} {name!r}; use {accepted}.{nearest(name, known)}')


def item_error(error: Exception, name: object) -> InputError:
    """What one item of many raised, of whatever kind, as an error that names the item.

    Args:
        error: returned unchanged if it is an ``InputError``, whose message names the item already.
        name: of the item, such as its path.
    """
    if isinstance(error, InputError):
        return error
    text = one_line(error)
    if isinstance(error, MemoryError) or 'out of memory' in text or "can't allocate memory" in text:
        return InputError(f'{name}: not enough memory')
    return InputError(f'{name}: unexpected {type(error).__name__}: {text}')


def printable(text: object) -> str:
    """Text on one line: control characters and undecodable bytes of file names are escaped."""
    return ''.join(one if one.isprintable() else ascii(one)[1:-1] for one in str(text))


def one_line(error: BaseException) -> str:
    """The message of an error, also of one from a data-loading process, where torch adds a traceback."""
    text = str(error)
    if 'Original Traceback' in text:
        text = text.rpartition(f'{type(error).__name__}: ')[2]
    return printable(' '.join(text.split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` with the known name closest to ``name``, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return f' Did you mean {by_lower[match[0]]!r}?' if match else ''
