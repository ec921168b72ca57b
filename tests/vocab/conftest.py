"""Fixtures of tests of vocabularies."""

from __future__ import annotations

from .hub_tokenizers import hub_tokenizers

__all__ = ['hub_tokenizers']
