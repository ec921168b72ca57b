"""``clipdense caption SHARDS OUT``: captions of the images of webdataset shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import SHARD_SUFFIXES, check_new_folder

if TYPE_CHECKING:
    from clipdense.inference.captioner import Captioner
    from clipdense.utils.jobs import Part


def shards_and_folder(arguments: Sequence[str]) -> tuple[str, Path] | None:
    """Shards and the output folder, where the first argument names shards; None for images.

    Raises:
        InputError: shards without an output folder, or more than one.
    """
    if not arguments or not _are_shards(arguments[0]):
        return None
    if len(arguments) != 2:
        found = f'got {len(arguments) - 1}' if len(arguments) > 2 else 'add it: clipdense caption SHARDS OUT'
        raise InputError(f'{arguments[0]}: shards are captioned into one output folder; {found}')
    return arguments[0], Path(arguments[1])


def caption_shards(
    shards: str,
    folder: Path,
    make: Callable[[], Captioner],
    part: Part,
    batch_size: int | str,
    overwrite: bool,
    max_bad_fraction: float,
) -> None:
    """Copy shards with a caption for each image, and print the statistics.

    Args:
        shards, folder: see ``shards_and_folder``.
        make: the captioner, which is built after the paths are checked.
        part: of the shards.
        batch_size, overwrite, max_bad_fraction: of the command.

    Raises:
        InputError: as ``inference.shard_captions.caption_shards``.
    """
    from clipdense.data.image_text.shard_files import list_shards
    from clipdense.inference.shard_captions import caption_shards as run
    from clipdense.utils.jobs import STATE

    check_new_folder(folder, overwrite, [shards], STATE)
    list_shards(shards)
    report = run(shards, folder, make(), part, batch_size, max_bad_fraction, overwrite)  # type: ignore[arg-type]
    if report is None:
        print(f'{folder}: part {part} is done')
        return
    print(f'{folder}: ' + '\n'.join(report.lines()))
    tell_damaged(folder)


def tell_damaged(folder: Path) -> None:
    """Name the damaged shards of a finished job, and end with status 1 if there are any."""
    from clipdense.data.image_text.shard_copies import damaged_shards

    damaged = damaged_shards(folder)
    for one in damaged:
        typer.echo(f'clipdense: damaged shard: {printable(one)}', err=True)
    if damaged:
        raise typer.Exit(1)


def _are_shards(source: str) -> bool:
    """Whether an argument is a shard, a pattern of shards, or a folder that has some."""
    if source.startswith('pipe:') or source.partition('?')[0].endswith(SHARD_SUFFIXES):
        return True
    folder = Path(source).expanduser()
    return folder.is_dir() and any(path.name.endswith(SHARD_SUFFIXES) for path in folder.iterdir())
