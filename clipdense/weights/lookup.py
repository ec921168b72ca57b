"""What a name or path of weights means; nothing is opened or downloaded, and PyTorch is not imported."""

from __future__ import annotations

import os
from pathlib import Path

from clipdense.utils.errors import InputError
from clipdense.utils.files import regular_file

from . import zoo
from .hub import Repository

SUFFIXES = ('.safetensors', '.pt', '.pth', '.bin', '.ckpt', '.npz', '.pkl')


def look_up(weights: str | Path) -> tuple[Path | zoo.Entry | Repository, str]:
    """A path, published weights, or a repository of Hugging Face.

    Returns:
        What is meant; and for a repository why it is nothing else, or ''.

    Raises:
        InputError: a URL, an unknown name, a name of weights that were never released, or one that is too
            long.
    """
    if str(weights).startswith(('http:/', 'https:/')):
        raise InputError(f'{weights} is a URL; download the weights and give the file')
    path = Path(weights).expanduser()
    if len(os.fsencode(path.name)) > 255:  # the limit of file systems
        raise InputError(f'{str(weights)[:40]}... is too long for the name of weights or of a file')
    if path.is_dir():
        return path, ''
    text = str(weights)
    if '/' not in text and not path.exists() and (why := zoo.why_missing(text)):
        raise InputError(f'{text} does not exist as a file, and {why}')
    if text.startswith('hf-hub:') and not path.exists():
        return _repository(text, ''), ''
    if path.exists() or isinstance(weights, Path) or path.suffix in SUFFIXES or text[:1] in ('/', '.', '~'):
        return path, ''
    try:
        return zoo.find(text), ''
    except InputError as error:
        unknown = f'{text} does not exist as a file, and {error}'
        if zoo.names_model(text) or ('/' in text and path.parent.is_dir()):
            raise InputError(unknown) from None
        return _repository(text, unknown), unknown


def check_exists(weights: str | Path) -> None:
    """Check what can be told without opening or downloading weights.

    Raises:
        InputError: an unknown name, or a file that does not exist or is not a regular file.
    """
    found, _ = look_up(weights)
    if isinstance(found, Path) and not found.is_dir():
        regular_file(found)


def _repository(text: str, unknown: str) -> Repository:
    """The repository of Hugging Face; ``unknown`` says why ``text`` is nothing else."""
    repository = Repository.of(text)
    if repository is None:
        raise InputError(unknown or f'{text} does not name a repository, as hf-hub:ORGANIZATION/NAME does')
    return repository
