"""Commands that methods add to the command line, imported when they are used."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from clipdense.methods import Method, list_methods
from clipdense.utils.errors import InputError

from .once import Command, check_given_once


class EmbedGroup(TyperGroup):
    """``clipdense embed``: its options and commands, and one for each entry in ``Method.commands``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As ``Command.parse_args``."""
        if args:
            check_given_once(self, ctx, args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the subcommands."""
        return sorted({*method_commands(), *super().list_commands(ctx)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The subcommand, or None.

        Raises:
            InputError: it cannot be imported.
        """
        method = method_commands().get(cmd_name)
        if method is None:
            return super().get_command(ctx, cmd_name)
        single = typer.Typer(rich_markup_mode='markdown', add_completion=False)
        single.command(cmd_name, cls=Command)(method.part(cmd_name, 'commands'))
        return typer.main.get_command(single)


def method_commands() -> dict[str, Method]:
    """Each command that a method adds, and the method.

    Raises:
        InputError: two methods add a command of the same name.
    """
    found: dict[str, Method] = {}
    for method in list_methods():
        for name in method.commands:
            if name in found:
                both = f'{found[name].name!r} and {method.name!r}'
                raise InputError(f'methods {both} both add the command `embed {name}`: uninstall one')
            found[name] = method
    return found
