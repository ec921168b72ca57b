"""Tables of cells as Markdown, CSV and JSON, with published scores and sources."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipdense.utils.files import atomic_write

from .presets import FAMILIES
from .published import PUBLISHED, STATUSES, Published, published

Cell = dict[str, Any]
_COLUMNS = (
    'method',
    'dataset',
    'preset',
    'miou',
    'published',
    'status',
    'source',
    'published_weights',
    'difference',
    'pixel_accuracy',
    'images',
    'published_images',
    'images_per_second',
    'failure',
    'key',
)


def beside(cell: Cell) -> Published | None:
    """The published score for a cell: the best verified of the same method, dataset and preset."""
    numbers = published(cell['method'], cell['dataset'], cell['preset']['name'])
    return numbers[0] if numbers else None


def write_tables(out: Path, cells: Sequence[Cell]) -> None:
    """Write ``table.md``, ``table.csv`` and ``table.json``.

    Raises:
        InputError: they cannot be written.
    """
    for name, text in (('table.md', markdown(cells)), ('table.csv', comma_separated(cells))):
        with atomic_write(out / name, 'w') as file:
            file.write(text)
    write_json(out / 'table.json', [{**cell, 'published': _published(cell)} for cell in cells])


def comma_separated(cells: Sequence[Cell]) -> str:
    """One line per cell."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _COLUMNS, lineterminator='\n')
    writer.writeheader()
    for cell in cells:
        number = beside(cell)
        data = cell.get('data', {})
        row = {name: cell.get(name) for name in _COLUMNS}
        row |= {'preset': cell['preset']['name'], 'images': data.get('images')}
        row['published_images'] = data.get('published_images')
        if number is not None:
            row |= {'published': number.miou, 'status': number.status, 'source': number.source}
            row['published_weights'] = number.weights
            if cell.get('miou') is not None:
                row['difference'] = round(cell['miou'] - number.miou, 2)
        writer.writerow(row)
    return file.getvalue()


def markdown(cells: Sequence[Cell]) -> str:
    """A table of methods x datasets with published scores in brackets, and notes on settings."""
    datasets = list(dict.fromkeys(cell['dataset'] for cell in cells))
    rows: dict[str, dict[str, Cell]] = {}
    for cell in cells:
        rows.setdefault(str(cell.get('row') or cell['method']), {})[cell['dataset']] = cell
    lines = [
        '# Open-vocabulary segmentation: mIoU in percent, ours (published)',
        '',
        f'| method | preset | {" | ".join(datasets)} |',
        '|---|---|' + '---|' * len(datasets),
    ]
    for row, places in rows.items():
        presets = dict.fromkeys(cell['preset']['name'] for cell in places.values())
        entries = [_place(places.get(dataset)) for dataset in datasets]
        lines.append(f'| {row.split(":")[0]} | {", ".join(presets)} | {" | ".join(entries)} |')
    lines += ['', *_legend(cells), '', *_speed(cells), '', *_others(datasets)]
    return '\n'.join(lines).rstrip() + '\n'


def _place(cell: Cell | None) -> str:
    if cell is None:
        return ''
    number = beside(cell)
    theirs = '' if number is None else f' ({number})'
    if 'failure' in cell:
        return f'failed{theirs}'
    ours = 'n/a' if cell['miou'] is None else f'{cell["miou"]:.2f}'
    data = cell['data']
    part = f' on {data["images"]} of {data["published_images"]}' if data['complete'] is False else ''
    return f'{ours}{part}{theirs}'


def _legend(cells: Sequence[Cell]) -> list[str]:
    done = [cell for cell in cells if 'failure' not in cell]
    lines = []
    for cell in done[:1]:
        weights, versions = cell['weights'], cell['versions']
        lines.append(
            f'Weights {weights["name"]} ({weights["digest"][:12]}), clipdense {versions["clipdense"]}, torch '
            f'{versions["torch"]}, {cell["device"]}, {cell["date"][:10]}.'
        )
    numbers = [number for cell in cells if (number := beside(cell)) is not None]
    if numbers:
        known = {number.status for number in numbers}
        lines.append(
            'Published: '
            + '; '.join(f'[{status}] {STATUSES[status]}' for status in STATUSES if status in known)
        )
        sources = dict.fromkeys(f'{number.source} ({number.weights})' for number in numbers)
        lines += [f'* {source}' for source in sources]
    for name in dict.fromkeys(cell['preset']['name'] for cell in cells):
        family = FAMILIES[name]
        lines.append(f'* preset {name}: {family.source}{"; " + family.note if family.note else ""}')
    failures: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        if 'failure' in cell:
            failures.setdefault((cell['dataset'], cell['failure']), []).append(cell['method'])
    lines += [
        f'* failed: {dataset} ({", ".join(methods)}): {reason}'
        for (dataset, reason), methods in failures.items()
    ]
    return lines


def _speed(cells: Sequence[Cell]) -> list[str]:
    done = [cell for cell in cells if cell.get('images_per_second')]
    if not done:
        return []
    head = ['| method | dataset | images | seconds | images / s |', '|---|---|---|---|---|']
    return head + [
        f'| {cell["method"]} | {cell["dataset"]} | {cell["data"]["images"]} | {cell["seconds"]:.1f} | '
        f'{cell["images_per_second"]:.2f} |'
        for cell in done
    ]


def _others(datasets: Sequence[str]) -> list[str]:
    """Published scores of methods that are not implemented."""
    rows: dict[str, dict[str, Published]] = {}
    here = {number.method for number in PUBLISHED if number.preset}
    for number in PUBLISHED:
        if number.method not in here and number.dataset in datasets:
            rows.setdefault(number.method, {})[number.dataset] = number
    if not rows:
        return []
    lines = ['Published by others, not run here:', '', f'| method | {" | ".join(datasets)} |']
    lines.append('|---|' + '---|' * len(datasets))
    return lines + [
        f'| {method} | {" | ".join(str(row.get(dataset, "")) for dataset in datasets)} |'
        for method, row in rows.items()
    ]


def _published(cell: Cell) -> dict[str, Any] | None:
    number = beside(cell)
    return None if number is None else vars(number)


def write_json(path: Path, value: Any) -> None:
    """Write a result file.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_write(path, 'w') as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
