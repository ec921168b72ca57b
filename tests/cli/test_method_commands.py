"""Commands that methods add under ``clipdense embed``."""

from __future__ import annotations

import sys

import pytest

from clipdense.cli import method_commands
from clipdense.cli.app import main
from clipdense.methods import Method

MODULE = 'commands_of_a_test_method'


def install(monkeypatch, tmp_path, *methods):
    (tmp_path / f'{MODULE}.py').write_text(
        'def greet(name: str) -> None:\n    """Greet by name."""\n    print(f"hello {name}")\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop(MODULE, None)
    monkeypatch.setattr(method_commands, 'list_methods', lambda: list(methods))


def greeter(name: str, path: str = f'{MODULE}:greet') -> Method:
    return Method(name, 'detection', 'for tests', commands={'greet': path})


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(['embed', *arguments])
    return stop.value.code


def test_a_method_adds_a_command(monkeypatch, tmp_path, capsys):
    install(monkeypatch, tmp_path, greeter('toy'))
    assert run('greet', 'you') == 0
    assert capsys.readouterr().out == 'hello you\n'
    assert run('--help') == 0
    assert 'Greet by name.' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('methods', 'message'),
    [
        ([greeter('toy'), greeter('game')], "methods 'toy' and 'game' both add the command `embed greet`"),
        ([greeter('toy', 'no_such_module:greet')], "method 'toy': no_such_module:greet cannot be imported"),
    ],
    ids=['one name twice', 'not importable'],
)
def test_commands_that_cannot_be_added(monkeypatch, tmp_path, capsys, methods, message):
    install(monkeypatch, tmp_path, *methods)
    assert run('greet', 'you') == 2
    assert message in capsys.readouterr().err
