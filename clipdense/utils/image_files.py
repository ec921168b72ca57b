"""Lists of input images, and names of output files."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .errors import InputError, nearest

_FORMATS = 'avif bmp gif jfif jp2 jpe jpeg jpg pbm pgm png pnm ppm tga tif tiff webp'
IMAGE_SUFFIXES = frozenset(f'.{name}' for name in _FORMATS.split())
_LONGEST_NAME = 120  # characters; file systems allow 255 bytes including suffixes
_UNSAFE = re.compile(r'[^\w .,+=@()\[\]-]|^\.')


def list_images(sources: str | Path | Sequence[str | Path]) -> list[Path]:
    """Expand paths, folders and glob patterns to image files.

    Folders are searched recursively for non-hidden files with an image suffix; a file given by name is
    used with any suffix, even if its name looks like a pattern.

    Returns:
        Paths in the order of the sources, sorted within each folder or pattern, without duplicates.

    Raises:
        InputError: a source does not exist or contains no images.
    """
    sources = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not sources:
        raise InputError('no images given; pass files, folders or patterns')
    found: dict[str, Path] = {}
    for source in sources:
        for path in _expand(source):
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())


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
    path = Path(source)
    if path.is_dir():
        files = [file for file in path.rglob('*') if _is_image(file, path)]
        if not files:
            raise InputError(
                f'no images in {path}; supported suffixes are {" ".join(sorted(IMAGE_SUFFIXES))}'
            )
        return sorted(files)
    if path.exists():
        return [path]
    if glob.has_magic(str(source)):
        matches = sorted(Path(match) for match in glob.glob(str(source), recursive=True))
        files = [match for match in matches if match.is_file()]
        if not files:
            raise InputError(f'no images match the pattern {source}')
        return files
    siblings = os.listdir(path.parent) if path.parent.is_dir() else []
    raise InputError(f'the file or folder {path} does not exist.{nearest(path.name, siblings)}')


def _is_image(file: Path, root: Path) -> bool:
    hidden = any(part.startswith('.') for part in file.relative_to(root).parts)
    return not hidden and file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()


def _safe(name: str) -> str:
    """Replace separators, control characters and undecodable bytes, and limit the length."""
    return _UNSAFE.sub('_', name)[:_LONGEST_NAME].rstrip(' .') or '_'


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
