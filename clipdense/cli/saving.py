"""Data sets that ``segment`` and ``detect`` write with ``--save``, and their formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.files import check_new_folder

from .early import check_choice

if TYPE_CHECKING:
    from clipdense.inference.formats import DatasetWriter
    from clipdense.vocab.vocabulary import Vocabulary

FORMATS = ('coco', 'coco-polygons', 'yolo', 'yolo-segment', 'voc', 'labelme', 'labelstudio', 'csv')
NAMES = ', '.join(FORMATS)
MinArea = Annotated[int, typer.Option('--min-area', min=0, help='Leave out objects with fewer pixels.')]


@dataclass(frozen=True)
class SaveArguments:
    """Data sets that are written in addition to the files of each image."""

    save: Annotated[
        list[str] | None,
        typer.Option('--save', help=f'Also write one data set, to OUT/FORMAT: {NAMES}. May be repeated.'),
    ] = None
    min_area: MinArea = 1

    def check(self) -> None:
        """Check the names of the formats before anything heavy is imported.

        Raises:
            InputError: an unknown format.
        """
        for name in self.save or ():
            check_choice(name, FORMATS, '--save')

    def writers(
        self, out: Path, paths: Sequence[Path], vocabulary: Vocabulary, overwrite: bool
    ) -> list[DatasetWriter]:
        """A writer for each format, whose folder is checked.

        Raises:
            InputError: an unknown format, or a folder that exists.
        """
        if not self.save:
            return []
        from clipdense.inference.formats import DatasetWriter, LabelOptions

        found = []
        for name in dict.fromkeys(self.save):
            found.append(DatasetWriter(out / name, name, paths, vocabulary, LabelOptions(self.min_area)))
            check_new_folder(out / name, overwrite, paths)
        return found


@contextmanager
def finished(writers: Sequence[DatasetWriter]) -> Iterator[None]:
    """Complete the data sets at the end, also after an error, and say what they have."""
    try:
        yield
    finally:
        for writer in writers:
            if writer.images:
                print(f'{writer.finish()[0]}: {writer.summary}')
