"""Process images one by one: what one image raises is its own failure, and the rest is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import typer

from clipdense.utils.errors import InputError, item_error, one_line, printable

Result = TypeVar('Result')


class Failures:
    """Counts and prints the failures of single images, and sums up at the end.

    Args:
        paths: the images.
        kind: what they are, in messages.
    """

    def __init__(self, paths: Sequence[str | Path], kind: str = 'images') -> None:
        self.paths, self.kind, self.began = paths, kind, time.perf_counter()
        self.failed: dict[int, Exception] = {}

    @contextmanager
    def of(self, index: int) -> Iterator[None]:
        """Count any error that the work on an image raises as the failure of this image."""
        try:
            yield
        except (BrokenPipeError, typer.Exit):
            raise
        except Exception as error:
            self.add(index, error)

    def add(self, index: int, error: Exception) -> None:
        """Count and print the failure of an image."""
        self.failed[index] = error
        if len(self.paths) > 1:
            text = one_line(item_error(error, self.paths[index]))
            typer.echo(f'clipdense: skipped: {text}', err=True)

    def check_any_left(self) -> None:
        """Stop if nothing succeeded.

        Raises:
            InputError: every image failed; a single image raises its own error.
        """
        if len(self.failed) < len(self.paths):
            return
        if len(self.paths) == 1:
            raise self.failed[0]
        if all(isinstance(error, InputError) for error in self.failed.values()):
            raise InputError(f'none of {len(self.paths)} {self.kind} could be processed')
        self.exit()

    def exit(self, where: Path | None = None) -> None:
        """Print a closing summary, and end the command with status 1 if some images failed.

        Args:
            where: the results are.

        Raises:
            typer.Exit: some images failed.
        """
        failed, count = len(self.failed), len(self.paths)
        seconds = f'{time.perf_counter() - self.began:.1f} s'
        place = '' if where is None else f'; results in {printable(where)}'
        if failed:
            done = f'{count - failed} done in {seconds}'
            line = f'{failed} of {count} {self.kind} were skipped (named above), {done}'
        else:
            line = f'{count} {self.kind if count > 1 else self.kind.removesuffix("s")} done in {seconds}'
        typer.echo(f'clipdense: {line}{place}', err=True)
        if failed:
            raise typer.Exit(1)


def each(
    paths: Sequence[str | Path],
    predict: Callable[[Callable[[int, InputError], None]], Iterator[tuple[int, Result]]],
    finish: Callable[[int, Result], str],
    doing: str,
    where: Path | None = None,
    kind: str = 'images',
) -> None:
    """Predict for each image and print what ``finish`` returns; failures are printed, counted and skipped.

    Args:
        paths: the images.
        predict: yields index and result of each image; it calls its argument for images that fail.
        finish: writes a result, in a background thread; returns the line to print.
        doing: what is done, for the progress bar.
        where: the results are, for the summary.
        kind: what the paths are, in messages.

    Raises:
        InputError: all images failed.
        typer.Exit: with status 1 if some images failed.
    """
    from clipdense.utils.overlap import overlapped
    from clipdense.utils.progress import track

    failures = Failures(paths, kind)

    def outcome(found: tuple[int, Result]) -> tuple[int, str | Exception]:
        try:
            return found[0], finish(*found)
        except Exception as error:
            return found[0], error

    found = overlapped(outcome, predict(failures.add))
    for index, done in track(found, doing, total=len(paths)):
        with failures.of(index):
            if isinstance(done, Exception):
                raise done
            print(done)
    failures.check_any_left()
    failures.exit(where)
