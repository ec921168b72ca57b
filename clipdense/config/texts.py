"""Options given as text, NAME=VALUE."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from clipdense.utils.errors import InputError

_WORDS = {'true': True, 'false': False, 'none': None, 'null': None}


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """``['a.b=1e-3', 'c=[1,2]', 'd=word']`` -> values by dotted key; others than literals are text.

    Raises:
        InputError: an option without '=', given twice with different values, or a list whose texts are not
            quoted.
    """
    parsed: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition('=')
        if not equals or not key.strip():
            raise InputError(f'option {option!r} must have the form name=value')
        try:
            value = (
                _WORDS[text.strip().lower()]
                if text.strip().lower() in _WORDS
                else ast.literal_eval(text.strip())
            )
        except (ValueError, SyntaxError):
            if text.strip()[:1] + text.strip()[-1:] in ('[]', '()', '{}'):  # the shell has removed the quotes
                raise InputError(
                    f'option {option!r}: quote the texts inside and the whole option, as in '
                    """-o 'name=["a", "b"]'"""
                ) from None
            value = text
        other = parsed.setdefault(key.strip(), value)
        if repr(other) != repr(value):
            raise InputError(
                f'option {key.strip()!r} is given twice, as {other!r} and as {value!r}: remove one'
            )
    return parsed
