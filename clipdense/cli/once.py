"""Options of commands are given once: of two values, only the last would count, without a word."""

from __future__ import annotations

from collections import Counter
from itertools import takewhile
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from clipdense.utils.errors import InputError

from .output import json_only


def check_given_once(command: Any, context: Any, arguments: list[str]) -> None:
    """Refuse an option that takes one value and is given several times.

    Raises:
        InputError: naming the option.
    """
    _, _, given = command.make_parser(context).parse_args(args=list(arguments))
    for parameter, count in Counter(given).items():
        single = not getattr(parameter, 'multiple', True) and not getattr(parameter, 'is_flag', False)
        if single and count > 1:
            raise InputError(f'{parameter.opts[0]} is given {count} times: give it once, with one value')


def check_class_names(arguments: list[str]) -> None:
    """Refuse class names that are not in one text: all but the first would be taken for images.

    Raises:
        InputError: with the names as they should be written.
    """
    at = next((at for at, text in enumerate(arguments) if text in ('-c', '--classes')), None)
    if at is None or at + 1 >= len(arguments):
        return
    names = list(takewhile(lambda text: not text.startswith('-'), arguments[at + 1 :]))
    words = [name for name in names[1:] if not set('./*\\') & set(name) and not Path(name).exists()]
    if words and len(words) == len(names) - 1:
        raise InputError(
            f'{words[0]!r} is not an image, and class names are one text with commas: '
            f"--classes '{', '.join(name.strip(', ') for name in names)}'"
        )


class Command(TyperCommand):
    """A command whose options are given once, and whose JSON stands alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the arguments, then parse them.

        Raises:
            InputError: an option is given twice.
        """
        if args:
            check_class_names(args)
            check_given_once(self, ctx, args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; with ``--json``, standard output has JSON only."""
        with json_only(bool(ctx.params.get('as_json'))):
            return super().invoke(ctx)
