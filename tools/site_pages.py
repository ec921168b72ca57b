"""Hooks of mkdocs.yml: pages and files from outside of docs/ join the site, and links to them are led there.

The pages are written for a checkout, where README.md and CHANGELOG.md are next to docs/; in the site they are
pages of its root.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Path in the checkout: path in the site.
PAGES = {
    'README.md': 'index.md',
    'CHANGELOG.md': 'changelog.md',
    'CONTRIBUTING.md': 'contributing.md',
    'examples/own_package/README.md': 'own_package.md',
}
_LINK = re.compile(r'(\]\()([^)\s#]+)((?:#[^)\s]*)?\))')
_PLAIN = ('LICENSE',)  # linked files without a suffix, which are served as text


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of ``PAGES``, and each other file of the checkout that a page links to."""
    for source, target in PAGES.items():
        files.append(File.generated(config, target, content=(ROOT / source).read_text('utf-8')))
    for page in list(files.documentation_pages()):
        for match in _LINK.finditer(page.content_string):
            path = _in_checkout(match[2], page.src_uri)
            if path and path not in PAGES and not path.startswith('docs/') and (ROOT / path).is_file():
                target = _in_site(path)
                if files.get_file_from_path(target) is None:
                    files.append(File.generated(config, target, content=(ROOT / path).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links of a checkout become links of the site."""

    def moved(match: re.Match[str]) -> str:
        path = _in_checkout(match[2], page.file.src_uri)
        if path is None or not (ROOT / path).is_file():
            return match[0]  # an address, or a broken link, which mkdocs reports
        start = str(PurePosixPath(page.file.src_uri).parent)
        return f'{match[1]}{relpath(_in_site(path), start)}{match[3]}'

    return _LINK.sub(moved, markdown)


def _in_checkout(link: str, page: str) -> str | None:
    """The path in the checkout that a link of a page of the site means; None for addresses."""
    if ':' in link:
        return None
    origin = next((source for source, target in PAGES.items() if target == page), f'docs/{page}')
    return normpath(str(PurePosixPath(origin).parent / link))


def _in_site(path: str) -> str:
    """Where a file of the checkout is in the site."""
    if path in PAGES:
        return PAGES[path]
    if path in _PLAIN:
        return f'files/{path}.txt'
    return path[len('docs/') :] if path.startswith('docs/') else f'files/{path}'
