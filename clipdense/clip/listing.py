"""The list of published weights; importing this does not import PyTorch."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from clipdense.weights import zoo

from .checkpoint.config_files import from_zoo


def list_models(pattern: str = '') -> list[str]:
    """Names of published weights, '<model>/<tag>' such as 'ViT-B-16/openai'; OpenAI's first.

    Args:
        pattern: part of a name, or a shell pattern for the whole name if it contains one of ``*?[``; case is
            ignored.  A short name such as 'embedded' finds the weights that it stands for.
    """
    pattern = zoo.SHORT_NAMES.get(pattern.lower(), pattern).lower()
    if not any(sign in pattern for sign in '*?['):
        pattern = f'*{pattern}*'
    return [name for name in zoo.ZOO if fnmatchcase(name.lower(), pattern)]


def model_table(pattern: str = '') -> list[dict[str, Any]]:
    """Source, license, checksum, activation and preprocessing of each name in ``list_models``."""
    rows = []
    for name in list_models(pattern):
        entry = zoo.ZOO[name]
        recorded = from_zoo(entry)
        row: dict[str, Any] = {
            'name': entry.name,
            'source': entry.source,
            'license': entry.license,
            'sha256': entry.sha256,
            'activation': recorded.text.activation,
        }
        rows.append(row | (recorded.preprocess or {}))
    return rows
