"""What data there is at a path, and the datasets that its parts are read with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from clipdense.utils.errors import InputError, nearest

Kind = Literal['captions', 'masks', 'boxes', 'phrases', 'phrase masks', 'images', 'questions']
KINDS: tuple[Kind, ...] = ('captions', 'masks', 'boxes', 'phrases', 'phrase masks', 'images', 'questions')


@dataclass(frozen=True)
class DatasetPart:
    """A dataset as a config names it.

    Args:
        module, name: of its class.
        arguments: plain values.
    """

    module: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def import_line(self) -> str:
        """``from module import name``."""
        return f'from {self.module} import {self.name}'

    def text(self, **more: str) -> str:
        """``dict(type=Name, root='...')``; ``more`` are entries whose values are code."""
        given = {key: repr(value) for key, value in self.arguments.items()} | more
        return (
            f'dict({", ".join([f"type={self.name}", *(f"{key}={value}" for key, value in given.items())])})'
        )

    def build(self, **more: Any) -> Any:
        """The dataset."""
        return getattr(import_module(self.module), self.name)(**{**self.arguments, **more})


@dataclass(frozen=True)
class DataLayout:
    """What a path has.

    Args:
        path: as it was given.
        kind: what is learned from it.
        layout: for messages.
        train: what training reads.
        val: other samples for validation; None if there are none.
        named: all parts by name, if there are others than these two.
        members: of a folder of data sets, each of them by name; the other fields are those of the first.
    """

    path: str
    kind: Kind
    layout: str
    train: DatasetPart
    val: DatasetPart | None = None
    named: Mapping[str, DatasetPart] = field(default_factory=dict)
    members: Mapping[str, DataLayout] = field(default_factory=dict)

    @property
    def parts(self) -> Mapping[str, DatasetPart]:
        """All parts by name; 'all' of data that has one."""
        if self.named:
            return self.named
        return {'all': self.train} if self.val is None else {'train': self.train, 'val': self.val}

    def part(self, name: str | None = None) -> tuple[str, DatasetPart]:
        """Name and dataset of a part; by default of what validates a training, or all there is.

        Raises:
            InputError: there is no such part.
        """
        if name is None:
            chosen = self.val or self.train
            name = next(key for key, part in self.parts.items() if part == chosen)
        if name not in self.parts:
            raise InputError(
                f'{self.path} ({self.layout}) has no part {name!r}; it has {", ".join(self.parts)}.'
                f'{nearest(name, self.parts)}'
            )
        return name, self.parts[name]
