"""What the documentation shows exists: methods, links, commands with their options; code compiles."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from clipdense.cli.app import app
from clipdense.engine.launch import read_config
from clipdense.methods import list_methods

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *sorted((ROOT / 'docs').rglob('*.md'))]
# files of readers, and what `clipdense init` writes
OWN_FILES = re.compile(r'my_\w+\.py|(lseg|clip|slip|vild|coop)_(mine|train|captions)\.py')


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', page.read_text('utf-8'), re.DOTALL)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r'(?m)^#+ (.+)$', page.read_text('utf-8'))
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def _commands() -> list[tuple[str, list[str]]]:
    """Every ``clipdense`` command of the shell examples, with the page that shows it."""
    found = []
    for page in PAGES:
        for block in _blocks(page, 'bash'):
            for line in block.replace('\\\n', ' ').splitlines():
                words = shlex.split(line, comments=True)
                if 'clipdense' in words[:-1]:
                    found.append((_id(page), words[words.index('clipdense') + 1 :]))
    return found


def test_every_method_is_listed():
    table = (ROOT / 'docs/methods.md').read_text('utf-8').splitlines()
    for method in list_methods():
        (line,) = (line for line in table if line.startswith(f'| [`{method.name}`]'))
        learns_from = method.learns_from or 'training-free'
        fields = (f'| {method.task} |', learns_from, method.paper)
        assert all(field in line for field in fields), 'run python tools/methods_page.py'


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text('utf-8').splitlines()) <= 150


@pytest.mark.parametrize('page', PAGES, ids=_id)
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text('utf-8')):
        if '://' in target:
            continue
        file, _, anchor = target.partition('#')
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f'{target} does not exist'
        assert not anchor or anchor in _anchors(linked), f'{target}: no such heading'


@pytest.mark.parametrize('page', PAGES, ids=_id)
def test_python_examples_compile(page):
    for block in _blocks(page, 'python'):
        ast.parse(block)


@pytest.mark.parametrize(
    ('page', 'words'), _commands(), ids=lambda value: value if type(value) is str else ''
)
def test_commands_and_their_options_exist(page, words):
    """Each is parsed by the command line itself, and the ``-o`` of train and test fit the config."""
    command: Any = typer.main.get_command(app)
    name, rest = 'clipdense', list(words)
    while rest and rest[0] in getattr(command, 'commands', {}):
        name, rest = rest[0], rest[1:]
        command = command.commands[name]
    given = command.make_context(name, rest).params
    if name in ('train', 'test') and not given.get('data') and not OWN_FILES.match(given['config']):
        read_config(given['config'], given['option'] or ())
