"""One name of an option means one thing: all commands are walked, and compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from clipdense.cli.app import app

# Options whose help differs between commands, and why.
OWN_HELP = {
    '--batch-size': 'check-data takes that of the training',
    '--kind': 'of data, or of words',
    '--classes': 'adapt and `embed region-features` also take the name of a part of the classes',
    '--max-length': 'of a caption with its prompt, or of an answer',
    '--method': 'the methods of the task',
    '--option': 'of the method, of the config, or of several methods',
    '--out': 'a folder or a file, whose kind is said',
    '--overwrite': 'scenes writes to an existing folder, train removes checkpoints',
    '--part': 'of a job, of a model, or of the data',
    '--precision': 'of the file that export writes',
    '--shots': 'adapt also counts images with masks',
    '--score-threshold': 'that of pseudo-label has a default of its own',
    '--seed': "the default of train is the config's",
    '--to': 'the formats of the command',
    '--weights': 'compare and demo take several',
}
OWN_TYPE = {
    '--batch-size': 'check-data takes a number only',
    '--method': 'compare takes two',
    '--weights': 'compare and demo take several',
}


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each command and subcommand that does something, with its name."""
    if path and command.params:
        yield ' '.join(path), command
    if hasattr(command, 'list_commands'):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*path, name))


COMMANDS = dict(walk(typer.main.get_command(app)))


def uses() -> dict[str, dict[str, Any]]:
    """Long name of an option -> command -> the option."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for command, one in COMMANDS.items():
        for option in one.params:
            if option.param_type_name == 'option':
                found[next(name for name in option.opts if name.startswith('--'))][command] = option
    return found


USES = uses()
SHARED = sorted(name for name, commands in USES.items() if len(commands) > 1)


def different(name: str, fact: Any) -> dict[Any, list[str]]:
    """Each value of a fact about an option -> the commands that have it."""
    found: dict[Any, list[str]] = defaultdict(list)
    for command, option in USES[name].items():
        found[fact(option)].append(command)
    return found


def kind(option: Any) -> tuple[Any, bool]:
    return getattr(option.type_descriptor, 'annotation', None), option.multiple


@pytest.mark.parametrize('command', COMMANDS)
def test_help_has_an_example(command):
    assert f'Example: `clipdense {command}' in COMMANDS[command].help


@pytest.mark.parametrize('command', COMMANDS)
def test_each_option_has_help(command):
    for option in COMMANDS[command].params:
        if option.param_type_name == 'option':
            assert option.help or option.name == 'help', option.opts


@pytest.mark.parametrize('name', SHARED)
def test_one_name_has_one_type(name):
    assert len(found := different(name, kind)) == 1 or name in OWN_TYPE, found


@pytest.mark.parametrize('name', SHARED)
def test_one_name_has_one_help(name):
    assert len(found := different(name, lambda option: option.help)) == 1 or name in OWN_HELP, found


def test_short_names_belong_to_one_option():
    owners: dict[str, set[str]] = defaultdict(set)
    for name, commands in USES.items():
        for option in commands.values():
            for short in option.opts:
                if not short.startswith('--'):
                    owners[short].add(name)
    assert owners == {
        '-c': {'--classes'},
        '-w': {'--weights'},
        '-o': {'--option'},
        '-q': {'--question'},
    }


@pytest.mark.parametrize(('table', 'fact'), [(OWN_HELP, lambda one: one.help), (OWN_TYPE, kind)])
def test_exceptions_are_needed(table, fact):
    assert [name for name in table if len(different(name, fact)) == 1] == []
