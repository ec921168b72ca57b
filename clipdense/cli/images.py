"""Process images one by one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from clipdense.utils.errors import InputError


def each(paths: list[Path], work: Callable[[int], str], doing: str) -> None:
    """Call ``work`` for each image; an image that cannot be read is reported and skipped.

    Raises:
        InputError: no image can be read.
        typer.Exit: with status 1 if some images were skipped.
    """
    from clipdense.utils.progress import track

    failed: list[str] = []
    for index in track(range(len(paths)), doing, total=len(paths)):
        try:
            print(work(index))
        except InputError as error:
            failed.append(str(error))
            if len(paths) > 1:
                typer.echo(f'clipdense: skipped: {error}', err=True)
    if failed and len(failed) == len(paths):
        raise InputError(failed[0] if len(paths) == 1 else f'none of {len(paths)} images could be read')
    if failed:
        typer.echo(f'clipdense: {len(failed)} of {len(paths)} images were skipped', err=True)
        raise typer.Exit(1)
