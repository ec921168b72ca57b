"""The site that `make docs` writes: each page is in the navigation, and the strict build needs no network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import clipdense

ROOT = Path(__file__).parents[1]
OUTSIDE = {'index.md', 'changelog.md', 'contributing.md', 'own_package.md'}  # tools/site_pages.py makes them
PAGES = {path.relative_to(ROOT / 'docs').as_posix() for path in (ROOT / 'docs').rglob('*.md')}
FROM_OTHER_SERVERS = re.compile(r'<(?:script|link|img)\b[^>]*(?:src|href)="?(?:https?:)?//')


def in_navigation() -> list[str]:
    _, _, navigation = (ROOT / 'mkdocs.yml').read_text('utf-8').partition('\nnav:\n')
    return re.findall(r'(?m)^ *- (?:[^\n]*: )?(\S+\.md)$', navigation)


def test_each_page_is_in_the_navigation_once():
    assert sorted(in_navigation()) == sorted(PAGES | OUTSIDE)


def test_each_public_name_is_in_the_reference():
    text = '\n'.join(path.read_text('utf-8') for path in (ROOT / 'docs/reference').glob('*.md'))
    public = [name for name in clipdense.__all__ if not name.startswith('_')]
    assert [name for name in public if not re.search(rf'(?m)^::: clipdense[\w.]*\.{name}$', text)] == []


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    for package in ('material', 'mkdocstrings'):
        if importlib.util.find_spec(package) is None:
            pytest.skip('pip install "clipdense[docs]"')
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', str(folder)]
    environment = {**os.environ, 'NO_MKDOCS_2_WARNING': '1'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip(), done.stderr
    return folder


def test_the_strict_build_has_each_page(site):
    assert [
        page for page in PAGES - {'research/README.md'} if not (site / page).with_suffix('.html').is_file()
    ] == []
    assert (site / 'research/index.html').is_file()


def test_nothing_comes_from_other_servers(site):
    pages = [path for path in site.rglob('*.html') if FROM_OTHER_SERVERS.search(path.read_text('utf-8'))]
    assert pages == []


def test_the_reference_shows_signatures_and_docstrings(site):
    text = re.sub(r'<[^>]+>', '', (site / 'reference/predictors.html').read_text('utf-8'))
    assert 'from_pretrained(' in text
    assert 'extract_dense_features(' in text


def test_linked_files_of_the_checkout_come_along(site):
    for name in ('LICENSE.txt', 'examples/onnx_runtime.py'):
        assert (site / 'files' / name).is_file(), name
