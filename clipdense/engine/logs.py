"""Logging of runs: short lines on the screen, everything in the log file, the config as text."""

from __future__ import annotations

import contextlib
import logging
import platform
import sys
from functools import partial
from pathlib import Path
from pprint import pformat

import mmengine
import torch
from mmengine.config import Config

from clipdense.config import plain_config
from clipdense.utils.files import explain_write_error

_WIDTH = 110
_NOISE = 'has no metainfo'  # a warning of MMEngine about datasets that need none


def make_plain(logger: logging.Logger) -> None:
    """Short lines on stderr; warnings only until ``set_screen_level``."""
    for handler in _screens(logger):
        handler.setStream(sys.stderr)
        handler.setFormatter(logging.Formatter('%(asctime)s  %(message)s', '%H:%M:%S'))
        handler.setLevel(max(handler.level, logging.WARNING))
        handler.addFilter(lambda record: _NOISE not in record.getMessage())
    for file in logger.handlers:
        if isinstance(file, logging.FileHandler):
            file.handleError = partial(_report_failure, file, [])  # type: ignore[method-assign]


def set_screen_level(logger: logging.Logger, level: int) -> None:
    """Show messages from this level on."""
    for handler in _screens(logger):
        handler.setLevel(level)


def environment() -> str:
    """One line on versions and device."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU ({platform.machine()})'
    return (
        f'{device}, torch {torch.__version__}, mmengine {mmengine.__version__}, '
        f'Python {platform.python_version()}, {platform.platform()}'
    )


def config_text(config: Config) -> str:
    """A config as Python code that MMEngine can read; classes are written as dotted names.

    MMEngine's own conversion is slow, needs yapf, and fails on classes defined in code.
    """
    entries = plain_config(config.to_dict())
    return (
        '\n'.join(
            f'{key} = {pformat(value, width=_WIDTH, sort_dicts=False)}' for key, value in entries.items()
        )
        + '\n'
    )


def _report_failure(handler: logging.FileHandler, reported: list[str], _: logging.LogRecord) -> None:
    """One line about a log file that cannot be written; logging itself prints a traceback for each record."""
    error = sys.exc_info()[1]
    if not reported and isinstance(error, OSError):
        path = Path(handler.baseFilename)
        reported.append(explain_write_error(error, path))
        with contextlib.suppress(OSError):  # stderr may be a file of the same disk
            print(f'the log file is incomplete, training continues: {reported[0]}', file=sys.stderr)


def _screens(logger: logging.Logger) -> list[logging.StreamHandler]:
    return [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]
