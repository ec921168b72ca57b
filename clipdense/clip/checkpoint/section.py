"""A part of a JSON config file, whose entries are read with their types checked."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from clipdense.utils.errors import CheckpointError, InputError
from clipdense.utils.json_files import read_json


class Section:
    """Entries of a JSON object; null and absent entries are the same.

    Args:
        values: the object.
        source: name of the file, for errors.
        path: names of the entries that lead to the object, such as 'vision_config'.

    Raises:
        CheckpointError: not an object.
    """

    def __init__(self, values: Any, source: object, path: str = '') -> None:
        if not isinstance(values, Mapping):
            where = f'{path} ' if path else ''
            raise CheckpointError(f'{source} is invalid: {where}is not a JSON object')
        self.values, self.source, self.path = values, source, path

    @classmethod
    def of_file(cls, path: Path) -> Section:
        """The object of a file.

        Raises:
            CheckpointError: the file cannot be read, or is not a JSON object.
        """
        try:
            values = read_json(path)
        except InputError as error:
            raise CheckpointError(str(error)) from error
        if not isinstance(values, Mapping):
            raise CheckpointError(f'{path} is not a JSON object')
        return cls(values, path)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        """An entry of any type."""
        value = self.values.get(key)
        return default if value is None else value

    def part(self, key: str) -> Section:
        """An entry that is an object; an empty one if it is absent."""
        return Section(self.get(key, {}), self.source, self._name(key))

    def integer(self, key: str, default: Any = None) -> Any:
        """An entry that is a positive integer."""
        value = self.get(key, default)
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if value is not default and (isinstance(value, bool) or not whole or value <= 0):
            raise self.error(key, 'must be a positive integer')
        return value if value is default else int(value)

    def flag(self, key: str, default: bool) -> bool:
        """An entry that is true or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, 'must be true or false')
        return value

    def text(self, key: str, default: Any = None) -> Any:
        """An entry that is a string."""
        value = self.get(key, default)
        if value is not default and not isinstance(value, str):
            raise self.error(key, 'must be a string')
        return value

    def number(self, key: str, default: float) -> float:
        """An entry that is a finite number other than 0."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or not value:
            raise self.error(key, 'must be a finite number other than 0')
        return float(value)

    def triple(self, key: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
        """An entry with one number for each of R, G, B, or one for all."""
        value = self.get(key, default)
        values = list(value) if isinstance(value, list | tuple) else [value] * 3
        numbers = [
            x for x in values if isinstance(x, int | float) and not isinstance(x, bool) and isfinite(x)
        ]
        if len(values) != 3 or len(numbers) != 3:
            raise self.error(key, 'must be three finite numbers')
        return float(numbers[0]), float(numbers[1]), float(numbers[2])

    def require(self, **supported: Any) -> None:
        """Refuse entries with other values than the supported ones.

        Raises:
            CheckpointError: naming the entry.
        """
        for key, value in supported.items():
            if key in self and self.values[key] != value:
                raise CheckpointError(
                    f'{self.source}: unsupported {key}={self.values[key]!r}; supported: {value!r}'
                )

    def error(self, key: str, problem: str) -> CheckpointError:
        """The error of an invalid entry."""
        return CheckpointError(
            f'{self.source} is invalid: {self._name(key)} {problem}, got {self.values.get(key)!r:.80}'
        )

    def _name(self, key: str) -> str:
        return f'{self.path}.{key}' if self.path else key
