"""Tables of texts about images: what `caption` and `answer` write."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write

Row = dict[str, Any]  # of one image, with the same keys in each
ENDINGS = ('.csv', '.tsv', '.json', '.jsonl', '.txt')


def check_ending(out: Path | None, what: str) -> None:
    """Check that a file of this name can be written.

    Raises:
        InputError: its ending is unknown.
    """
    if out is not None and out.suffix.lower() not in ENDINGS:
        raise InputError(f'--out {out}: {what} are written as {", ".join(ENDINGS)}')


def write_rows(out: Path, rows: Sequence[Row], text: str) -> None:
    """Write rows in the format of the ending.

    Args:
        out: the file.
        rows: at least one.
        text: the key whose values a ``.txt`` file has, one a line.
    """
    ending = out.suffix.lower()
    if ending == '.txt':
        content = ''.join(f'{row[text]}\n' for row in rows)
    elif ending == '.json':
        content = json.dumps(rows, ensure_ascii=False, indent=1) + '\n'
    elif ending == '.jsonl':
        content = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    else:
        content = _table(rows, '\t' if ending == '.tsv' else ',')
    with atomic_write(out) as file:
        file.write(content.encode('utf-8', 'backslashreplace'))


def _table(rows: Sequence[Row], separator: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator='\n')
    writer.writerow(rows[0])
    writer.writerows(
        (f'{value:.6f}' if isinstance(value, float) else value for value in row.values()) for row in rows
    )
    return text.getvalue()
