"""What the text tower reads of class names: their tokens are checked before they are embedded."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from clipdense.utils.errors import InputError
from clipdense.vocab.names import normalize
from clipdense.vocab.tokenizer import BaseTokenizer

from .tokenizers import LazyTokenizer

_SHOWN = 5  # number of names in a warning


def check_tokens(tokenizer: Any, prompts: Mapping[str, str]) -> None:
    """Check what the text tower reads of each name, given with its first prompt.

    Raises:
        InputError: a name such as '<|endoftext|>', which ends the text.

    Warns:
        UserWarning: two names are one text, such as 'C' and 'C++' without punctuation, or where they are cut.
    """
    found = _base(tokenizer)
    if found is None:
        return
    special = {*found.prefix, *found.suffix}
    first: dict[tuple[int, ...], str] = {}
    for name, prompt in prompts.items():
        ids = found.encode(prompt)
        if special.intersection(ids):
            raise InputError(
                f'the class name {name!r} has a special token of the tokenizer, which begins or ends a text: '
                'remove it'
            )
        other = first.setdefault(tuple(ids[: found.room]), name)
        if normalize(other) != normalize(name) and prompts[other] != prompt:
            warnings.warn(f'{other!r:.80} and {name!r:.80} are one text for the text tower; the first wins')


def warn_of_unknown(tokenizer: Any, names: Sequence[str], what: str = 'class names') -> None:
    """Warn once of the names whose characters a tokenizer does not know, or has not seen in its language.

    Args:
        tokenizer: of the text tower.
        names: class names, or other texts.
        what: they are, in the message.

    Warns:
        UserWarning: names with characters that are not in the vocabulary, or names of other scripts for a
            vocabulary of English texts.
    """
    found = _base(tokenizer)
    if found is None:
        return
    names = list(dict.fromkeys(names))
    fault = 'contain characters that the tokenizer does not know'
    lost = (
        [] if found.unknown in (None, found.end) else [n for n in names if found.unknown in found.encode(n)]
    )
    if not lost and found.english:
        fault = 'are not in Latin script, but the tokenizer was made for English texts'
        lost = [name for name in names if not _is_latin(name)]
    if lost:
        warnings.warn(
            f'{len(lost)} of {len(names)} {what} {fault}: {_some(lost)}; write them in English, or use a '
            'multilingual model such as ViT-B-16-SigLIP2/webli'
        )


def _base(tokenizer: Any) -> BaseTokenizer | None:
    """The tokenizer that a model holds; None for functions of users."""
    tokenizer = tokenizer.tokenizer if isinstance(tokenizer, LazyTokenizer) else tokenizer
    return tokenizer if isinstance(tokenizer, BaseTokenizer) else None


def _is_latin(name: str) -> bool:
    """Whether at least half of the letters are Latin; so is a name without letters."""
    letters = [char for char in name if char.isalpha()]
    latin = sum('LATIN' in unicodedata.name(char, '') for char in letters)
    return 2 * latin >= len(letters)


def _some(names: Sequence[str]) -> str:
    return ', '.join(f'{name!r:.40}' for name in names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')
