"""The sources fit Python 3.10 to 3.13: their syntax, and what they import from the standard library."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ('clipdense', 'configs', 'tools', 'examples')
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py'))
# Runs in another Python, without packages: compiles the files and looks imported names up.
CHECK = """
import importlib, json, sys
files, imported = json.load(sys.stdin)
for file in files:
    compile(open(file, encoding='utf-8').read(), file, 'exec')
for module, name in imported:
    found = importlib.import_module(module)
    if name and not hasattr(found, name):
        importlib.import_module(module + '.' + name)
"""


def imported_from_the_standard_library() -> set[tuple[str, str]]:
    """(module, name) of ``from module import name``, and (module, '') of ``import module``."""
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found |= {(node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                found |= {(alias.name, '') for alias in node.names}
    return {one for one in found if one[0].partition('.')[0] in sys.stdlib_module_names}


def test_the_syntax_is_that_of_python_3_10():
    for path in SOURCES:
        ast.parse(path.read_text('utf-8'), str(path), feature_version=(3, 10))


@pytest.mark.parametrize('version', ['3.10', '3.11', '3.12', '3.13'])
def test_each_installed_python_compiles_them(version, tmp_path):
    python = shutil.which(f'python{version}')
    if python is None or subprocess.run([python, '-c', ''], capture_output=True).returncode:
        pytest.skip(f'python{version} is not installed')
    given = json.dumps([[str(path) for path in SOURCES], sorted(imported_from_the_standard_library())])
    done = subprocess.run(
        [python, '-I', '-c', CHECK], input=given, capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
