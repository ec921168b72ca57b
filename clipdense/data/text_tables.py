"""Lines and rows of text tables (TSV, CSV), such that no row can disappear in another one.

A field that begins with a quote is quoted, as in RFC 4180, if the closing quote (two quotes stand for one)
is followed by a separator or by the end of a line.  Otherwise its quotes are ordinary characters.  A quoted
field may go on in the following lines, but not across a line that reads as a row by itself: one that has as
many columns as the header and, if the quoted row has one, a name of an image in the same column.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import unicodedata
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, cast

from clipdense.utils.errors import InputError
from clipdense.utils.files import regular_file
from clipdense.utils.image_files import IMAGE_SUFFIXES

LONGEST_LINE = 1 << 20  # characters; longer lines are skipped without being kept in memory

_LONGEST_QUOTE = 1000  # lines of one quoted field
_HEAD = 1 << 16  # bytes that show the encoding and the end of a line
_ENCODINGS = (
    (codecs.BOM_UTF8, 'utf-8-sig'),
    (codecs.BOM_UTF32_LE, 'utf-32'),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)


@dataclass(frozen=True)
class Dialect:
    r"""How the rows of a text table are written.

    Args:
        separator: one character between columns (``\t``, typed as two characters, is a tab).  None: a tab; in
            files named ``.csv`` a comma, if the header has the columns that way.
        quoting: fields may be quoted with ``"``.  False: quotes are ordinary characters.
    """

    separator: str | None = None
    quoting: bool = True

    def __post_init__(self) -> None:
        if self.separator == '\\t':
            object.__setattr__(self, 'separator', '\t')
        given = self.separator
        if given is not None and (not isinstance(given, str) or len(given) != 1 or given in '"\r\n'):
            raise InputError(f'separator must be one character such as a tab or a comma, got {given!r}')


class Line(NamedTuple):
    """A line of a file, counted from 1, with its end; ``text`` is None if it is too long."""

    number: int
    text: str | None


class TextRow(NamedTuple):
    """The fields of a row; or the reason why it has none."""

    number: int
    fields: list[str]
    fault: str = ''


def read_lines(path: str | Path) -> Iterator[Line]:
    """The lines of a text file, also of a gzip file.

    The end of the first line (LF, CRLF or CR) ends all lines.  Bytes that are not UTF-8 become lone
    surrogates.  UTF-16 and UTF-32 are read if the file begins with a byte order mark.

    Raises:
        InputError: not a regular file, a damaged gzip file, or damaged UTF-16.
    """
    path = regular_file(path)
    try:
        with _open(path) as file:
            head = file.read(_HEAD)
        encoding = next((name for mark, name in _ENCODINGS if head.startswith(mark)), 'utf-8')
        errors = 'surrogateescape' if encoding.startswith('utf-8') else 'strict'
        end = _line_end(head.decode(encoding, 'ignore'))
        with _open(path) as file, io.TextIOWrapper(file, encoding, errors, newline=end) as text:
            yield from _numbered(text, end)
    except UnicodeError as error:
        raise InputError(f'{path} is damaged {encoding.upper()} text; save it as UTF-8') from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f'cannot read {path}: {getattr(error, "strerror", None) or error}') from error


def column_name(name: str) -> str:
    """The form in which names of columns are compared."""
    return unicodedata.normalize('NFC', name.strip())


def without_end(text: str) -> str:
    """A line without LF, CRLF or CR at its end."""
    if text.endswith('\n'):
        text = text[:-1]
    return text[:-1] if text.endswith('\r') else text


class TextRows:
    """The rows below the header of a text table; blank lines are none.

    Args:
        lines: of the file.
        header: line of the column names.
        separator: between columns.
        quoting: see ``Dialect``.
        key: name of the column whose values are image files.

    Attributes:
        columns: names, see ``column_name``.
    """

    def __init__(
        self,
        lines: Iterator[Line],
        header: Line,
        separator: str,
        quoting: bool = True,
        key: str | None = None,
    ) -> None:
        self._lines, self._ahead = lines, deque[Line]()
        self._separator, self._quoting = separator, quoting
        after = f'(?={re.escape(separator)}|\\Z)'
        self._quoted = re.compile(f'"([^"]*(?:""[^"]*)*)"{after}')
        self._open = re.compile('"[^"]*(?:""[^"]*)*')
        self.columns = list(map(column_name, self.split(header.text or '')))
        named = None if key is None else column_name(key)
        self._key = self.columns.index(named) if named in self.columns else None

    def __iter__(self) -> Iterator[TextRow]:
        while (line := self._next()) is not None:
            if line.text is None:
                yield TextRow(line.number, [], f'longer than {LONGEST_LINE} characters')
                continue
            if not line.text.strip('\r\n '):
                continue
            fields = self._fields(line.text)
            more = len([field for field in fields[len(self.columns) :] if field.strip()])
            if more:
                fault = f'{len(self.columns) + more} columns instead of {len(self.columns)}'
                yield TextRow(line.number, fields, f'{fault}: quote values with separators')
            elif '\0' in line.text or any('\0' in field for field in fields):
                yield TextRow(line.number, fields, 'a null character')
            else:
                yield TextRow(line.number, fields)

    def split(self, text: str) -> list[str]:
        """The fields of one line."""
        return self._parse(text, may_continue=False)

    def _fields(self, line: str) -> list[str]:
        """The fields of a row that begins with this line."""
        return self._parse(line, may_continue=True)

    def _parse(self, line: str, may_continue: bool) -> list[str]:
        fields: list[str] = []
        text, at = without_end(line), 0
        if not self._quoting or '"' not in text:
            return text.split(self._separator)
        while True:
            match = None
            if text.startswith('"', at):
                match = self._quoted.match(text, at)
                if match is None and may_continue and self._open.fullmatch(text, at):
                    longer = self._continued(line, at, len(fields))
                    if longer is not None:
                        line, text = longer, without_end(longer)
                        match = self._quoted.match(text, at)
            if match is not None:
                fields.append(match[1].replace('""', '"'))
                at = match.end()
            else:
                end = text.find(self._separator, at)
                fields.append(text[at:] if end < 0 else text[at:end])
                at = len(text) if end < 0 else end
            if at >= len(text):
                return fields
            at += 1

    def _continued(self, line: str, at: int, before: int) -> str | None:
        """The line with those up to the one that closes the quote at ``at``; None if there is none."""
        alone = self.split(line)
        short, named = len(alone) < len(self.columns), self._is_named(alone)
        for count in range(1, _LONGEST_QUOTE):
            if len(self._ahead) < count:
                following = next(self._lines, None)
                if following is None:
                    return None
                self._ahead.append(following)
            added = self._ahead[count - 1].text
            if added is None:
                return None
            line += added
            text = without_end(line)
            closed = self._quoted.match(text, at)
            if self._is_row(added, named):
                rest = text.count(self._separator, closed.end()) if closed else 0
                if not (closed and short and before + 1 + rest == len(self.columns)):
                    return None
            if closed:
                for _ in range(count):
                    self._ahead.popleft()
                return line
            if len(line) > LONGEST_LINE or not self._open.fullmatch(text, at):
                return None
        return None

    def _is_row(self, line: str, named: bool) -> bool:
        """Whether a line reads as a row; with ``named``, rows have the name of an image."""
        fields = self.split(line)
        return len(fields) == len(self.columns) and (not named or self._is_named(fields))

    def _is_named(self, fields: list[str]) -> bool:
        if self._key is None or self._key >= len(fields):
            return False
        return Path(fields[self._key].strip()).suffix.lower() in IMAGE_SUFFIXES

    def _next(self) -> Line | None:
        return self._ahead.popleft() if self._ahead else next(self._lines, None)


def choose_separator(path: Path, header: Line, columns: Sequence[str], dialect: Dialect) -> str:
    """The separator of a table."""
    if dialect.separator is not None:
        return dialect.separator
    comma_file = path.name.lower().removesuffix('.gz').endswith('.csv')
    for separator in ('\t', ',') if comma_file else ('\t',):
        found = TextRows(iter(()), header, separator, dialect.quoting).columns
        if {column_name(column) for column in columns} <= set(found):
            return separator
    return ',' if comma_file else '\t'


def _numbered(file: IO[str], end: str) -> Iterator[Line]:
    number = 0
    while text := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(text) <= LONGEST_LINE:
            yield Line(number, text)
            continue
        while text and not text.endswith(end):
            text = file.readline(LONGEST_LINE)
        yield Line(number, None)


def _line_end(head: str) -> str:
    """LF, which also ends CRLF; or CR."""
    found = re.search('\r\n|\n|\r', head)
    return '\r' if found and found[0] == '\r' else '\n'


def _open(path: Path) -> IO[bytes]:
    with open(path, 'rb') as file:
        zipped = file.read(2) == b'\x1f\x8b'
    return cast(IO[bytes], gzip.open(path)) if zipped else open(path, 'rb')
