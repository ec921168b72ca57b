"""The command line: ``clipdense COMMAND``.  Each command imports what it needs when it runs."""

from __future__ import annotations

from .app import app, main

__all__ = ['app', 'main']
