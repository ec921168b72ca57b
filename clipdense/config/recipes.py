"""The included configs with what their docstrings say, without running them."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from clipdense.utils.errors import InputError, nearest

from .names import included_configs

_FACT = re.compile(r'^(Cost|Score): (.+?)(?=^\w+: |^\s*$|\Z)', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Recipe:
    """An included config.

    Args:
        name: as `clipdense train` takes it.
        summary: first paragraph of its docstring.
        cost: what it says after "Cost:", or ''.
        score: what it says after "Score:", or ''.
        text: the whole docstring, with the commands that run it.
    """

    name: str
    summary: str
    cost: str
    score: str
    text: str


def list_recipes(pattern: str = '') -> list[Recipe]:
    """The included configs whose name or summary matches.

    Args:
        pattern: part of the name or of the summary, or a shell pattern for the whole name; case is ignored.

    Raises:
        InputError: no config matches, with the nearest name.
    """
    recipes = [_recipe(name, path) for name, path in included_configs().items()]
    wanted = pattern.lower().removeprefix('configs/').removesuffix('.py')
    if any(sign in wanted for sign in '*?['):
        found = [one for one in recipes if fnmatchcase(one.name.lower(), wanted)]
    else:
        found = [one for one in recipes if wanted in one.name.lower() or wanted in one.summary.lower()]
    if not found:
        known = {one.name for one in recipes} | {part for one in recipes for part in one.name.split('/')}
        folders = ', '.join(sorted({one.name.split('/')[0] for one in recipes}))
        raise InputError(
            f'no included config matches {pattern!r}.{nearest(wanted, known)} '
            f'Give a part of a name, or nothing for the whole list; folders: {folders}'
        )
    return [one for one in found if one.name == wanted] or found


def _recipe(name: str, path: Path) -> Recipe:
    text = ast.get_docstring(ast.parse(path.read_text('utf-8'))) or ''
    facts = {label: ' '.join(found.split()) for label, found in _FACT.findall(text)}
    summary = ' '.join(text.partition('\n\n')[0].split())
    return Recipe(name, summary, facts.get('Cost', ''), facts.get('Score', ''), text)
