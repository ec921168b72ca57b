"""What the repository says about itself: one version, one license, official outputs that are described."""

from __future__ import annotations

import re
from pathlib import Path

import clipdense

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / 'tests/golden'


def test_one_version():
    version = re.escape(clipdense.__version__)
    for file, pattern in {
        'setup.py': rf"version='{version}'",
        'CITATION.cff': rf'(?m)^version: {version}$',
        'CHANGELOG.md': rf'(?m)^## \[{version}\]',
    }.items():
        assert re.search(pattern, (ROOT / file).read_text('utf-8')), f'{file} names another version'


def test_official_outputs_are_described():
    described = (GOLDEN / 'README.md').read_text('utf-8')
    names = {path.stem for path in GOLDEN.iterdir()} - {'README'}
    assert not [name for name in sorted(names) if f'`{name}' not in described]


def test_official_outputs_are_small():
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 32e6


def test_the_license_is_the_one_that_is_declared():
    assert 'Apache License' in (ROOT / 'LICENSE').read_text('utf-8')
    for file in ('setup.py', 'CITATION.cff'):
        assert 'Apache-2.0' in (ROOT / file).read_text('utf-8')
