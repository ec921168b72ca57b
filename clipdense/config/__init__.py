"""Configs: read one by name or path, replace entries of it, and check it; no runner is needed.

Configs are Python files in MMEngine's style, which are code, or YAML and JSON files, which are data.  Those
that come with clipdense are in ``configs/`` of a checkout and in ``clipdense.configs`` of an installed wheel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipdense.utils.lazy import lazy_names

if TYPE_CHECKING:
    from .checking import check_parts, named_parts
    from .files import config_name, load_config
    from .options import part_class, plain_config
    from .texts import parse_options

_HOMES = {
    'check_parts': 'clipdense.config.checking',
    'named_parts': 'clipdense.config.checking',
    'config_name': 'clipdense.config.files',
    'load_config': 'clipdense.config.files',
    'part_class': 'clipdense.config.options',
    'plain_config': 'clipdense.config.options',
    'parse_options': 'clipdense.config.texts',
}

__all__ = [
    'check_parts',
    'config_name',
    'load_config',
    'named_parts',
    'parse_options',
    'part_class',
    'plain_config',
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
