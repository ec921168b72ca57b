"""Check the installation."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from collections.abc import Iterator
from typing import NamedTuple

import typer

from clipdense.utils.files import cache_folder

from .options import AsJson
from .output import print_json

PACKAGES = (
    'torch',
    'torchvision',
    'mmengine',
    'mmdet',
    'open_clip_torch',
    'timm',
    'webdataset',
    'numpy',
    'Pillow',
)
CONFLICTS = (
    ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    ('mmengine', 'onedl-mmengine'),
    ('mmdet', 'onedl-mmdetection'),
    ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python', 'opencv-contrib-python-headless'),
)


class Finding(NamedTuple):
    """One line of the report; ``fix`` is what to do if there is a problem."""

    what: str
    value: str
    fix: str = ''


def doctor(as_json: AsJson = False) -> None:
    """Report versions, devices and caches, and problems with how to fix them.

    Example: `clipdense doctor`
    """
    problems = 0
    if as_json:
        findings = list(examine())
        print_json([finding._asdict() for finding in findings])
        raise typer.Exit(int(any(finding.fix for finding in findings)))
    for finding in examine():
        mark = 'x' if finding.fix else ' '
        print(f'{mark} {finding.what:18} {finding.value}')
        if finding.fix:
            problems += 1
            print(f'    -> {finding.fix}')
    count = f'{problems} {"problem" if problems == 1 else "problems"} found'
    print(count if problems else 'no problems found')
    if problems:
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """All findings, in the order of the report."""
    from clipdense import __version__

    yield Finding('clipdense', __version__)
    yield Finding('python', f'{platform.python_version()} on {platform.platform()}')
    for name in PACKAGES:
        version = _version(name)
        yield Finding(name, version or 'not installed', '' if version else f'pip install {name}')
    yield from _conflicts()
    yield from _operations()
    yield from _device()
    yield from _vocabulary()
    yield _cache()
    offline = [name for name in ('CLIPDENSE_OFFLINE', 'HF_HUB_OFFLINE') if os.environ.get(name)]
    yield Finding(
        'network',
        f'off ({", ".join(offline)})' if offline else 'used to download weights by name',
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _conflicts() -> Iterator[Finding]:
    """Packages that overwrite each other's files."""
    for names in CONFLICTS:
        installed = [name for name in names if _version(name)]
        if len(installed) > 1:
            fix = f'keep only one: pip uninstall {" ".join(installed[1:])}'
            yield Finding(names[0], ' and '.join(installed), fix)


def _operations() -> Iterator[Finding]:
    if importlib.util.find_spec('mmcv') is not None:
        compiled = _is_compiled()
        yield Finding(
            'mmcv operations', 'compiled' if compiled else 'in PyTorch (a compiled mmcv is not needed)'
        )


def _is_compiled() -> bool:
    """Whether mmcv has its compiled operators; our stand-in for them, once installed, has no spec."""
    try:
        return importlib.util.find_spec('mmcv._ext') is not None
    except ValueError:
        return False


def _device() -> Iterator[Finding]:
    import torch

    from clipdense.layers.precision import has_native_bf16

    if torch.cuda.is_available():
        yield Finding('device', torch.cuda.get_device_name())
    else:
        threads = torch.get_num_threads()
        yield Finding('device', f'CPU, {threads} {"thread" if threads == 1 else "threads"}')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    native = has_native_bf16(device)
    yield Finding(
        'bf16', f'{"native" if native else "emulated"}; precision auto is {"bf16" if native else "fp32"}'
    )


def _vocabulary() -> Iterator[Finding]:
    from clipdense.utils.errors import InputError
    from clipdense.vocab.tokenizer import Tokenizer

    try:
        yield Finding('tokenizer', f'{Tokenizer().vocab_size} tokens')
    except InputError as error:
        yield Finding('tokenizer', 'merges file missing', str(error))


def _cache() -> Finding:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    fix = '' if writable else 'set the environment variable CLIPDENSE_CACHE to a writable folder'
    return Finding('cache', str(folder), fix)
