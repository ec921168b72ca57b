"""Configs: read one by name or path, replace entries of it, and check it; no runner is needed.

Configs are Python files in MMEngine's style, which are code, or YAML and JSON files, which are data.  Those
that come with clipdense are in ``configs/`` of a checkout and in ``clipdense.configs`` of an installed wheel.
"""

from .checking import check_parts, named_parts
from .files import config_name, load_config
from .options import parse_options, part_class, plain_config

__all__ = [
    'check_parts',
    'config_name',
    'load_config',
    'named_parts',
    'parse_options',
    'part_class',
    'plain_config',
]
