"""Lists of input images, and names of output files."""

from __future__ import annotations

import glob
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import InputError, nearest

_FORMATS = 'avif bmp gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp'
IMAGE_SUFFIXES = frozenset(f'.{name}' for name in _FORMATS.split())
_OTHER_FORMATS = 'arw cr2 cr3 dcm dng eps exr hdr heic heif ico jxl nef orf psd raw rw2 svg'
_OTHER_SUFFIXES = frozenset(f'.{name}' for name in _OTHER_FORMATS.split())
_LONGEST_NAME, _LONGEST_BYTES = 120, 200  # characters, bytes; file systems allow 255 bytes with suffixes
_UNSAFE = re.compile(r'[^\w .,+=@()\[\]-]|^\.')


def list_images(sources: str | Path | Sequence[str | Path]) -> list[Path]:
    """Expand paths, folders and glob patterns to image files.

    Folders are searched recursively, links to folders too, for non-hidden files with an image suffix; a file
    given by name is used with any suffix, even if its name looks like a pattern.  Links to missing files and
    files that are not regular are listed too, so that reading them reports them.

    Returns:
        Paths in the order of the sources, sorted within each folder or pattern, without duplicates.

    Raises:
        InputError: a source does not exist, contains no images, or is a folder that cannot be read.
    """
    sources = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not sources:
        raise InputError('no images given; pass files, folders or patterns')
    found: dict[str, Path] = {}
    for source in sources:
        for path in _expand(source):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def find_image(path: str) -> str:
    """The path of an existing image that is written in another way in a table or list.

    Tried in this order: the path as it is, its two Unicode forms (NFC, as most programs write; NFD, as macOS
    stores), and with ``/`` for the backslashes of Windows.  If there is none, the path is returned unchanged.
    """
    if os.path.lexists(path):
        return path
    forms = [path, unicodedata.normalize('NFC', path), unicodedata.normalize('NFD', path)]
    forms += [form.replace('\\', '/') for form in forms]
    return next((form for form in forms if os.path.lexists(form)), path)


def output_stems(paths: Sequence[str | Path]) -> list[str]:
    """A safe and unique file name without suffix for each path, also for case-insensitive file systems.

    Plain stems if these differ; else with their folders (``a/1.jpg`` -> ``a_1``), then with their suffixes
    too, then numbered.
    """
    resolved = [Path(os.path.abspath(path)) for path in paths]
    if not resolved:
        return []
    root = Path(os.path.commonpath([path.parent for path in resolved]))
    relative = [path.relative_to(root) for path in resolved]
    stems = [path.stem for path in resolved]
    with_folders = ['_'.join((*path.parts[:-1], path.stem)) for path in relative]
    with_endings = ['_'.join(path.parts).replace('.', '_') for path in relative]
    for names in (stems, with_folders, with_endings):
        names = [_safe(name) for name in names]
        if len({name.casefold() for name in names}) == len(names):
            return names
    return _numbered(names)


def _expand(source: str | Path) -> list[Path]:
    if not isinstance(source, str | Path):
        raise InputError(
            f'images must be paths of files or folders, or patterns, got {type(source).__name__}'
        )
    if not str(source).strip():
        raise InputError('the name of an image is empty; pass . for the images of this folder')
    if str(source).startswith(('http://', 'https://')):
        raise InputError(f'{source} is a URL; download the image and pass the file')
    path = Path(source)
    if os.path.isdir(path):
        return _search(path)
    if os.path.lexists(path):
        return [path]
    if glob.has_magic(str(source)):
        matches = sorted(Path(match) for match in glob.glob(str(source), recursive=True))
        files = [match for match in matches if not match.is_dir()]
        if not files:
            raise InputError(f'no images match the pattern {source}')
        return files
    siblings = os.listdir(path.parent) if os.path.isdir(path.parent) else []
    raise InputError(f'the file or folder {path} does not exist.{nearest(path.name, siblings)}')


def _search(folder: Path) -> list[Path]:
    """The images of a folder; warns of files in other image formats."""
    files = [path for path in _walk(folder) if not path.name.startswith('.')]
    images = sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    others = Counter(path.suffix.lower() for path in files if path.suffix.lower() in _OTHER_SUFFIXES)
    if others:
        count = '1 file' if others.total() == 1 else f'{others.total()} files'
        kinds = ', '.join(sorted(others))
        warnings.warn(f'{count} of {folder} ignored: image formats without support ({kinds})', stacklevel=2)
    if not images:
        raise InputError(f'no images in {folder}; supported suffixes are {" ".join(sorted(IMAGE_SUFFIXES))}')
    return images


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder; hidden folders are left out, and each real folder is visited once."""

    def refuse(error: OSError) -> None:
        raise InputError(f'the folder {error.filename} cannot be read: {error.strerror}') from error

    visited: set[str] = set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        yield from (Path(root, name) for name in names)


def _safe(name: str) -> str:
    """Replace separators, control characters and undecodable bytes, and limit the length."""
    short = _UNSAFE.sub('_', name)[:_LONGEST_NAME].encode()[:_LONGEST_BYTES].decode(errors='ignore')
    return short.rstrip(' .') or '_'


def _numbered(names: Sequence[str]) -> list[str]:
    """Append -2, -3, ... to repeated names, skipping existing ones."""
    taken = Counter(name.casefold() for name in names)
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name.casefold()] += 1
        fresh, number = name, seen[name.casefold()]
        while number > 1 and fresh.casefold() in taken:
            fresh, number = f'{name}-{number}', number + 1
        taken[fresh.casefold()] += 1
        result.append(fresh)
    return result
