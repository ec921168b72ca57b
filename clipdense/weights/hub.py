"""Repositories of Hugging Face: from its cache, or downloaded into the cache of clipdense."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from clipdense.utils.errors import InputError
from clipdense.utils.files import cache_folder
from clipdense.utils.tokenizer_files import FILES, TABLES

from .download import NotPublished, download, hub_endpoint, offline

_ID = re.compile(r'(?:hf-hub:)?(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?', re.ASCII)
_IMAGES = ('preprocessor_config.json', 'processor_config.json')
_COMPLETE = '.complete'  # marks a folder whose download has ended


@dataclass(frozen=True)
class Repository:
    """A repository of Hugging Face.

    Args:
        name: 'organization/name', or an old name without organization such as 'bert-base-uncased'.
        revision: a branch, tag or commit.
    """

    name: str
    revision: str = 'main'

    @classmethod
    def of(cls, text: str) -> Repository | None:
        """From 'organization/name', which 'hf-hub:' may precede and '@revision' follow; None for others."""
        match = _ID.fullmatch(text)
        if match is None or {'.', '..'} & set(re.split('[/@]', text.removeprefix('hf-hub:'))):
            return None
        return cls(match['name'], match['revision'] or 'main')

    @property
    def folder(self) -> Path:
        """The folder of its files in the cache of clipdense."""
        revision = self.revision.replace('/', '--')
        return cache_folder() / 'hub' / self.name.replace('/', '--') / revision

    @property
    def cache(self) -> Path:
        """Its folder in the cache of Hugging Face."""
        caches = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
        hub = os.environ.get('HF_HUB_CACHE') or os.environ.get('HUGGINGFACE_HUB_CACHE')
        root = Path(hub) if hub else Path(os.environ.get('HF_HOME') or caches / 'huggingface') / 'hub'
        return root.expanduser() / f'models--{self.name.replace("/", "--")}'

    def snapshot(self) -> Path | None:
        """The folder of this revision in the cache of Hugging Face."""
        commit = self.revision
        with contextlib.suppress(OSError):
            commit = (self.cache / 'refs' / self.revision).read_text().strip()
        snapshot = self.cache / 'snapshots' / commit
        return snapshot if commit and snapshot.is_dir() else None

    def url(self, file: str = '') -> str:
        """URL of a file, or of the page of the repository."""
        page = f'{hub_endpoint()}/{self.name}'
        return f'{page}/resolve/{quote(self.revision, safe="")}/{file}' if file else page

    def get(self, names: Iterable[str], folder: Path) -> list[Path]:
        """Download those of some files that the repository has.

        Raises:
            InputError: as ``download``.
        """
        found = []
        for name in names:
            with contextlib.suppress(NotPublished):
                found.append(download(self.url(name), folder / name))
        return found

    def get_tokenizer(self, folder: Path, model_type: bool = True) -> bool:
        """Download the files of a tokenizer, and return whether there are any.

        Args:
            folder: for the files.
            model_type: whether ``config.json`` is part of them, as in repositories of text encoders.

        Raises:
            InputError: as ``download``.
        """
        others = [name for name in FILES if name not in TABLES]
        self.get([*others, *(['config.json'] if model_type else [])], folder)
        return bool(self.get(TABLES[:1], folder) or self.get(TABLES[1:], folder))  # the last: it is complete

    def __str__(self) -> str:
        return self.name if self.revision == 'main' else f'{self.name}@{self.revision}'


def fetch_repository(repository: Repository, layouts: Mapping[str, Sequence[str]]) -> Path:
    """The folder with config, weights, tokenizer and image settings of a model.

    Args:
        repository: of the model.
        layouts: config file -> weights files that belong to it, both preferred first.

    Raises:
        InputError: it is not cached and offline, unreachable, or has no such files.
    """
    from .io import shard_names  # imports torch

    snapshot, folder = repository.snapshot(), repository.folder
    if snapshot and any((snapshot / name).is_file() for names in layouts.values() for name in names):
        return snapshot
    if (folder / _COMPLETE).is_file():
        return folder
    here = f'the repository {repository} is not cached ({repository.cache} or {folder})'
    local = 'download the repository elsewhere and give its folder'
    if forbidden := offline():
        raise InputError(f'{here} and {forbidden} disables downloads: unset it, or {local}')
    try:
        configs = [file.name for file in repository.get(layouts, folder)]
        weights = [name for config in configs for name in layouts[config]]
        found = next((file for name in weights for file in repository.get([name], folder)), None)
        if found is None:
            missing = f'weights file {" or ".join(weights)}' if weights else ' or '.join(layouts)
            raise InputError(f'{repository.url()} has no {missing}, or does not exist')
        repository.get(_IMAGES, folder)
        repository.get_tokenizer(folder, model_type=False)
        if found.name.endswith('.index.json'):
            for shard in sorted(set(shard_names(found).values())):
                download(repository.url(shard), folder / shard)
    except InputError as error:
        raise InputError(f'{here}, and cannot be downloaded: {error}; {local}') from error
    (folder / _COMPLETE).touch()
    return folder
