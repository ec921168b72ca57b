"""A table with a row for each object."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any, ClassVar

from clipdense.utils.files import atomic_write
from clipdense.vocab.vocabulary import Vocabulary

from .objects import LabeledImage
from .writer import Writer


class Table(Writer):
    """``objects.csv``, which ``pandas.read_csv`` reads."""

    summary: ClassVar[str] = 'a CSV table, a row for each object'
    columns = ('image', 'class', 'score', 'x1', 'y1', 'x2', 'y2', 'area')

    def __init__(self, folder: Path, vocabulary: Vocabulary) -> None:
        super().__init__(folder, vocabulary)
        self._rows: list[tuple[Any, ...]] = []

    def add(self, image: LabeledImage) -> None:
        """Write an image, and what is known of it alone."""
        for one in image.objects:
            name, box = self.vocabulary.class_names[one.label], (round(value, 3) for value in one.box)
            self._rows.append((str(image.source), name, round(one.score, 6), *box, round(one.area, 3)))

    def finish(self) -> list[Path]:
        """Write the table."""
        path, text = self.folder / 'objects.csv', io.StringIO()
        writer = csv.writer(text, lineterminator='\n')
        writer.writerow(self.columns)
        writer.writerows(self._rows)
        with atomic_write(path) as file:
            file.write(text.getvalue().encode('utf-8', 'backslashreplace'))
        return [path]
