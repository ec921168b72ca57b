"""The file of weights that are joined from installed packages, made when first asked for."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from functools import cache
from pathlib import Path

from clipdense.utils.errors import InputError, WriteError
from clipdense.utils.files import cache_folder, writable_folder
from clipdense.weights.download import locked
from clipdense.weights.io import read_weights
from clipdense.weights.zoo import Entry

from ..tokenizers import FolderTokenizer, find_tokenizer
from .saving import save

logger = logging.getLogger(__name__)


def joined_file(entry: Entry) -> Path:
    """The file of an entry with ``parts``: in the cache, or where that is not writable in a temporary folder.

    It depends on nothing but the packages, and describes itself as any file of ``save``.

    Raises:
        InputError, CheckpointError: as ``clip.embedded.build_embedded``.
    """
    from ..embedded import build_embedded, identity

    folder = cache_folder() / 'weights' / entry.name.replace('/', '-')
    name = f'{identity(entry)[:16]}.safetensors'
    if not _fault(folder / name):
        return folder / name
    try:
        writable_folder(folder)
    except WriteError:
        folder = _temporary_folder()
    with locked(folder / name):
        fault = _fault(folder / name)  # none if another process has made it meanwhile
        if fault and (folder / name).is_file():
            logger.warning('%s is damaged and is made again: %s', folder / name, fault)
        if fault:
            logger.info('joining %s from %s; kept in %s', entry.name, entry.source, folder)
            save(build_embedded(entry), folder / name)
    return folder / name


def _fault(path: Path) -> str:
    """What is wrong with the file or its tokenizer, which are then to be made again; '' if nothing."""
    from ..embedded import SIZE

    try:
        read_weights(path)
        tokenizer = find_tokenizer(SIZE.text, path)
    except InputError as error:
        return str(error)
    return '' if isinstance(tokenizer, FolderTokenizer) else 'it has no tokenizer'


@cache
def _temporary_folder() -> Path:
    """A folder that is removed when the program ends."""
    folder = tempfile.mkdtemp(prefix='clipdense-')
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
