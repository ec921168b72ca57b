"""Methods x datasets: each cell is measured once, also after interruptions, and written to one table.

out/
  cells/KEY.json                     one result; KEY is a hash of its conditions
  table.md, table.csv, table.json    cells of this run with the published scores
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from clipdense.data.segmentation.datasets import LabeledImages
from clipdense.utils.errors import InputError, one_line

from .measure import (
    Source,
    Subject,
    check_method,
    conditions,
    dataset_name,
    key_of,
    measure,
    preset_of,
    record,
)
from .tables import Cell, write_json, write_tables


class Grid:
    """A run over methods and datasets.

    Args:
        subject: the weights, and how segmenters are built from them.
        methods: training-free methods, the rows of the table; ``METHOD:PRESET`` chooses the family of a row.
        datasets: names in ``BENCHMARKS``, or folders in PASCAL VOC format.
        out: folder of the results.
        source: where the datasets come from.
        preset: one family for all cells; each method's own by default.

    Raises:
        InputError: an unknown method, dataset or preset.
    """

    def __init__(
        self,
        subject: Subject,
        methods: Sequence[str],
        datasets: Sequence[str],
        out: Path,
        source: Source | None = None,
        preset: str | None = None,
    ) -> None:
        self.subject, self.methods, self.datasets = subject, list(methods), list(datasets)
        self.out, self.source, self.preset = Path(out), source or Source(), preset
        check_names(self.methods, self.datasets, preset, subject.methods)
        self._open: dict[tuple[str, str], LabeledImages] = {}

    def run(self) -> Iterator[Cell]:
        """Yield one cell after another, read from its file if finished; tables are written after each.

        A failed cell is yielded with the reason in 'failure', and tried again in the next run.
        """
        cells: list[Cell] = []
        for dataset in self.datasets:
            for row in self.methods:
                cell = {**self._cell(*_row(row, self.preset), dataset), 'row': row}
                cells.append(cell)
                write_tables(self.out, cells)
                yield cell
            self._open.clear()

    def _cell(self, method: str, family: str | None, dataset: str) -> Cell:
        preset = preset_of(method, dataset, family, self.subject.trained)
        try:
            data = self._data(dataset, preset.words)
            facts = conditions(self.subject, method, dataset, data, preset)
            path = self.out / 'cells' / f'{key_of(facts)}.json'
            stored = _read(path)
            if stored is not None:
                return {**stored, 'stored': True}
            scores, seconds = measure(self.subject, method, data, preset, self.source.workers)
        except Exception as error:  # the other cells are still measured
            kind = '' if isinstance(error, InputError) else f'{type(error).__name__}: '
            return {
                'method': method,
                'dataset': dataset_name(dataset),
                'preset': preset.to_dict(),
                'failure': f'{kind}{one_line(error)}',
            }
        cell = record(facts, self.subject, data, scores, seconds)
        write_json(path, cell)
        return cell

    def _data(self, dataset: str, words: str) -> LabeledImages:
        if (dataset, words) not in self._open:
            self._open[dataset, words] = self.source.open(dataset, words)
        return self._open[dataset, words]


def check_names(
    methods: Sequence[str], datasets: Sequence[str], preset: str | None, known: tuple[str, ...]
) -> None:
    """Check names before anything is loaded.

    Args:
        methods, datasets, preset: as in ``Grid``.
        known: names of all methods.

    Raises:
        InputError: an unknown method, dataset or preset, or none.
    """
    if not methods or not datasets:
        raise InputError('no method or no dataset given: give at least one of each')
    for method, family in (_row(method, preset) for method in methods):
        check_method(method, known)
        for dataset in datasets:
            preset_of(method, dataset, family)


def check_datasets(datasets: Sequence[str], source: Source) -> None:
    """Check that at least one dataset can be read; the others are reported as failed cells.

    Args:
        datasets: as in ``Grid``.
        source: where they come from.

    Raises:
        InputError: what is wrong with each dataset, if none can be read.
    """
    faults = []
    for dataset in datasets:
        try:
            source.open(dataset)
            return
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError('; '.join(dict.fromkeys(faults)))


def _row(row: str, preset: str | None) -> tuple[str, str | None]:
    """Method and family of ``METHOD`` or ``METHOD:PRESET``."""
    method, _, family = row.partition(':')
    return method, family or preset


def _read(path: Path) -> Cell | None:
    """A finished cell; None if it cannot be read, to measure it again."""
    try:
        cell = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError):
        return None
    return cell if isinstance(cell, dict) and 'miou' in cell else None
