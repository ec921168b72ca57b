"""Rows of tables: TSV, CSV, JSON lines and Parquet, read alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import regular_file
from clipdense.utils.image_files import IMAGE_SUFFIXES
from clipdense.utils.json_files import parse_json

from .text_tables import LONGEST_LINE, Dialect, Line, TextRows, choose_separator, column_name, read_lines

_JSON_SUFFIXES = ('.jsonl', '.ndjson', '.json')
_PARQUET_SUFFIXES = ('.parquet', '.pq')
_SHOWN = 20  # column names in a message


class TableRow(NamedTuple):
    """A row of a table."""

    where: str  # file and line
    values: dict[str, Any]  # by column; an absent value is None
    fault: str = ''  # why the row cannot be used; '' if it can


def read_table(
    path: str | Path, columns: Sequence[str], dialect: Dialect | Mapping[str, Any] | str | None = None
) -> Iterator[TableRow]:
    """The rows of a table, in the order of the file; each is yielded, also one that cannot be used.

    ``.jsonl`` (``.ndjson``, ``.json``) is one JSON object a line, ``.parquet`` (``.pq``) is Parquet; other
    files are text tables with a header.  Text may be compressed with gzip.  Names of columns are compared
    without surrounding space, and in one Unicode form (NFC).

    Args:
        path: of the file.
        columns: names of the columns to read, that of the image first.
        dialect: of a text table; a string is its separator.

    Raises:
        InputError: not a regular file, a file that is not such a table, or an absent or repeated column.
    """
    path = regular_file(path)
    columns = list(dict.fromkeys(columns))
    suffix = Path(path.name.lower().removesuffix('.gz')).suffix
    if suffix in _PARQUET_SUFFIXES:
        return _parquet_rows(path, columns)
    if suffix in _JSON_SUFFIXES:
        return _json_rows(path, columns)
    return _text_rows(path, columns, as_dialect(dialect))


def column_names(path: str | Path) -> list[str]:
    """The columns of a table; of JSON lines those of the first entry.

    Raises:
        InputError: not a regular file, or not such a table.
    """
    path = regular_file(path)
    suffix = Path(path.name.lower().removesuffix('.gz')).suffix
    if suffix in _PARQUET_SUFFIXES:
        return [str(name) for name in _parquet_columns(path)]
    line = next((line for line in read_lines(path) if line.text is None or line.text.strip()), Line(1, ''))
    if not line.text or '\0' in line.text:
        raise InputError(f'{path} is not a UTF-8 text table: its first line is empty, too long or not text')
    if suffix in _JSON_SUFFIXES:
        entry = parse_json(line.text, f'{path}, line {line.number}')
        return list(entry) if isinstance(entry, dict) else []
    comma = '\t' not in line.text and path.name.lower().removesuffix('.gz').endswith('.csv')
    return TextRows(iter(()), line, ',' if comma else '\t').columns


def as_dialect(given: Dialect | Mapping[str, Any] | str | None) -> Dialect:
    """A dialect from its separator, or from its arguments."""
    if isinstance(given, Dialect):
        return given
    if given is None or isinstance(given, str):
        return Dialect(given)
    if not isinstance(given, Mapping) or set(given) - {'separator', 'quoting'}:
        raise InputError(
            f'separator must be one character, or a dict with separator and quoting; got {given!r}'
        )
    return Dialect(**given)


def _text_rows(path: Path, columns: Sequence[str], dialect: Dialect) -> Iterator[TableRow]:
    lines = read_lines(path)
    header = next((line for line in lines if line.text is None or line.text.strip()), Line(1, ''))
    if header.text is None or '\0' in header.text:
        what = 'a null character' if header.text else f'more than {LONGEST_LINE} characters'
        raise InputError(f'{path} is not a UTF-8 text table: its first line has {what}')
    separator = choose_separator(path, header, columns, dialect)
    rows = TextRows(lines, header, separator, dialect.quoting, key=columns[0])
    advice = f', or change the separator ({separator!r})'
    places = _places(path, columns, rows.columns, advice)
    for row in rows:
        values = [row.fields[place] if place < len(row.fields) else None for place in places]
        yield TableRow(f'{path}, line {row.number}', dict(zip(columns, values, strict=True)), row.fault)


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    first = True
    for line in read_lines(path):
        where = f'{path}, line {line.number}'
        if line.text is None:
            yield TableRow(where, {}, f'longer than {LONGEST_LINE} characters')
            continue
        if not line.text.strip():
            continue
        if first and line.text.lstrip().startswith('['):
            raise InputError(
                f'{path} is a JSON list, not JSON lines; write one object a line '
                '(a file of COCO captions is read by CocoCaptions)'
            )
        try:
            entry = parse_json(line.text, where)
        except InputError as error:
            yield TableRow(where, {}, str(error).removeprefix(f'{where} '))
        else:
            if not isinstance(entry, dict):
                yield TableRow(where, {}, 'not a JSON object')
                continue
            known = {column_name(key): value for key, value in entry.items()}
            if first and not any(column_name(column) in known for column in columns):
                _places(path, columns, list(entry))
            first = False
            yield TableRow(where, {column: known.get(column_name(column)) for column in columns})


def _parquet_columns(path: Path) -> list[str]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_schema
    except ImportError as error:
        raise InputError(f'{path}: Parquet needs pyarrow; pip install "clipdense[parquet]"') from error
    try:
        return list(read_schema(path).names)
    except (ArrowException, OSError) as error:
        raise InputError(f'{path} cannot be read as Parquet: {" ".join(str(error).split())}') from error


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[TableRow]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(f'{path}: Parquet needs pyarrow; pip install "clipdense[parquet]"') from error
    number = 0
    try:
        with ParquetFile(path) as file:
            known = list(file.schema_arrow.names)
            names = [known[place] for place in _places(path, columns, known)]
            for batch in file.iter_batches(batch_size=1024, columns=names):
                for index in range(len(batch)):
                    number += 1
                    where = f'{path}, row {number}'
                    try:
                        (entry,) = batch.slice(index, 1).to_pylist()
                    except ValueError:
                        yield TableRow(where, {}, 'not UTF-8 text')
                        continue
                    values = {column: _text(entry[name]) for column, name in zip(columns, names, strict=True)}
                    yield TableRow(where, values)
    except (ArrowException, OSError, MemoryError) as error:
        problem = ' '.join(str(error).split())
        raise InputError(f'{path} cannot be read as Parquet after row {number}: {problem}') from error


def _text(value: Any) -> Any:
    """Text columns may be stored as bytes."""
    return value.decode('utf-8', 'surrogateescape') if isinstance(value, bytes) else value


def _places(path: Path, columns: Sequence[str], known: Sequence[str], advice: str = '') -> list[int]:
    """The place of each column among those of the table.

    Raises:
        InputError: a column is absent, or there twice.
    """
    names = [column_name(name) for name in known]
    for column in columns:
        count = names.count(column_name(column))
        if count == 1:
            continue
        if count:
            raise InputError(f'{path} has {count} columns with the name {column!r}; rename all but one')
        shown = [*known[:_SHOWN], *(['...'] if len(known) > _SHOWN else [])]
        no_header = any(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in names)
        hint = ' The first line looks like a row: add a header line.' if no_header else ''
        raise InputError(
            f'{path} has no column {column!r}; its columns are {shown}. Use one of them{advice}.{hint}'
            f'{nearest(column, known)}'
        )
    return [names.index(column_name(column)) for column in columns]
