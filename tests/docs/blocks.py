"""The code blocks of a page: found, run in the current folder, and compared with what the page says of them.

* A block that does not run here has a line before it in the page, ``<!-- not run: REASON -->``.
* ``SHORTER`` are the only options that are changed.
* A block of ``text`` directly after one that runs is what it prints.
* In Python, a comment after ``print(...)`` that begins like a literal is what is printed, and one after
  another statement that begins with ``(2, H, W)`` is a shape.
* Numbers with a point and names in quotes depend on weights and machines: they are compared in form only, and
  ``...`` stands for anything.
"""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import glob
import io
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from clipdense.cli.app import main

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r'^(?:<!-- not run: (?P<reason>[^>]*) -->\n)?```(?P<language>bash|python|yaml)\n(?P<code>.*?)^```$'
    r'(?:\n\n```text\n(?P<printed>.*?)^```$)?',
    re.M | re.S,
)
_FILE = re.compile(r'`(my_\w+\.py)`')
_SHAPE = re.compile(r'# \(([\w, ]+)\)')
# Start of a command: options that are given instead of those of the page; the first one that fits.
SHORTER = {
    'quickstart': '--steps 2 --images 128',
    'scenes': '--train 64 --val 8',
    'train prompt_learning': '-o epochs=1 -o train_dataloader.num_workers=0',
    'train contrastive/': '-o custom_hooks.evaluation.at_end=False -o custom_hooks.evaluation.at_start=False '
    '-o train_cfg.max_steps=2 -o train_dataloader.num_workers=0',
    'train': '-o train_cfg.max_steps=2 -o train_dataloader.num_workers=0',
}


@dataclass(frozen=True)
class Block:
    """A block of a page, which begins at a line."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None  # why it is not run
    printed: str | None
    file: str | None  # a config or module that the text before names

    def run(self, names: dict[str, Any]) -> None:
        """Run it; ``names`` are the variables of the page."""
        print_to = io.StringIO()
        with contextlib.redirect_stdout(print_to) if self.printed else contextlib.nullcontext():
            if self.language == 'bash':
                for command in self.code.replace('\\\n', ' ').splitlines():
                    run_command(command)
            elif self.language == 'yaml':
                Path('classes.yaml').write_text(self.code)
                run_command('clipdense vocab validate classes.yaml')
            elif self.file and 'read_base' in self.code:
                Path(self.file).write_text(self.code)
            else:
                run_python(self, names)
        if self.printed:
            assert form(print_to.getvalue().strip()) == form(self.printed.strip())


def blocks_of(page: str) -> list[Block]:
    text, found = (ROOT / page).read_text('utf-8'), []
    for match in _BLOCK.finditer(text):
        files = _FILE.findall(text, 0, match.start())
        line = text.count('\n', 0, match.start('code')) + 1
        values = (match[name] for name in ('language', 'code', 'reason', 'printed'))
        found.append(Block(page, line, *values, files[-1] if files else None))
    return found


def run_command(line: str) -> None:
    """One line of a shell block; ``clipdense`` in this process, everything else in one of its own."""
    words = [
        found for word in shlex.split(line, comments=True) for found in sorted(glob.glob(word)) or [word]
    ]
    if not words:
        return
    if words[0] == 'clipdense':
        with pytest.raises(SystemExit) as left:
            main(shortened(words[1:]))
        assert not left.value.code, line
        return
    if words[0] == 'python':
        words = [sys.executable, str(ROOT / words[1]), *words[2:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f'{line}\n{done.stdout}{done.stderr}'


def shortened(words: list[str]) -> list[str]:
    """Arguments of ``clipdense`` with the options of ``SHORTER``."""
    command, given = ' '.join(words), list(words)
    added = next((options.split() for start, options in SHORTER.items() if command.startswith(start)), [])
    for flag in {'--steps', '--images', '--train', '--val'} & set(added) & set(given):
        place = given.index(flag)
        del given[place : place + 2]
    return given + added


def run_python(block: Block, names: dict[str, Any]) -> None:
    """One statement after another, each compared with the comment behind it."""
    lines = block.code.splitlines()
    for node in ast.parse(block.code).body:
        _, mark, comment = lines[node.end_lineno - 1].rpartition('  # ')
        comment, printed, value = mark.strip() + ' ' + comment, io.StringIO(), None
        place = f'{block.page}:{block.line + node.lineno - 1}'
        with contextlib.redirect_stdout(printed):
            if isinstance(node, ast.Expr):
                value = eval(compile(ast.Expression(node.value), place, 'eval'), names)
            else:
                exec(compile(ast.Module([node], []), place, 'exec'), names)
        print(printed.getvalue(), end='')
        if printed.getvalue() and re.match(r'# [\[({\d]', comment):
            found, said = form(printed.getvalue().strip()), form(comment[2:])
            assert fnmatch.fnmatchcase(found, said), f'{place} prints {printed.getvalue()}'
        elif shape := _SHAPE.match(comment):
            if isinstance(node, ast.Assign):
                (target,) = node.targets
                value = [names[name.id] for name in ast.walk(target) if isinstance(name, ast.Name)]
            for one in value if isinstance(value, list) else [value]:
                assert one is None or same_shape(one.shape, shape[1]), f'{place} is {tuple(one.shape)}'


def form(text: str) -> str:
    """Without what depends on weights and machines, as a pattern of ``fnmatch``."""
    text = re.sub(r"'[^']*'", "''", re.sub(r'-?\d+\.\d+', '0.0', text))
    return text.replace('[', '(').replace(']', ')').replace('...', '*')


def same_shape(shape: tuple[int, ...], said: str) -> bool:
    """Whether a shape has the numbers that are said; a letter stands for any number."""
    sides = said.replace(' ', '').strip(',').split(',')
    return len(shape) == len(sides) and all(
        not side.isdigit() or int(side) == length for side, length in zip(sides, shape, strict=True)
    )
