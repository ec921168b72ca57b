"""Numbers in messages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """``1 key``, ``2 keys``; ``1 class``, ``2 classes``; ``1 box``, ``2 boxes``."""
    if count == 1:
        return f'1 {noun}'
    return f'{count} {noun}{"es" if noun.endswith(("s", "x")) else "s"}'
