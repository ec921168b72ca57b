"""Options of commands are given once: of two values, only the last would count, without a word."""

from __future__ import annotations

from collections import Counter
from typing import Any

from typer.core import TyperCommand

from clipdense.utils.errors import InputError


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


class Command(TyperCommand):
    """A command whose options are given once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Check the arguments, then parse them.

        Raises:
            InputError: an option is given twice.
        """
        if args:
            check_given_once(self, ctx, args)
        return super().parse_args(ctx, args)
