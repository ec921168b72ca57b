"""``clipdense search``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.device_names import check_precision
from clipdense.utils.errors import InputError, one_line, printable
from clipdense.utils.files import check_outputs
from clipdense.utils.wording import counted

from .early import check_device, check_files, check_weights
from .options import (
    DEFAULT_WEIGHTS,
    MAX_PIXELS,
    Activation,
    AsJson,
    Device,
    MaxPixels,
    Override,
    Overwrite,
    Precision,
    Top,
    Weights,
    grouped,
    tell_precision,
    weight_overrides,
)
from .output import print_json

if TYPE_CHECKING:
    from clipdense.inference.image_index import Changes, ImageIndex, Match


@dataclass(frozen=True)
class SearchModel:
    """The weights that embed images and texts."""

    weights: Weights = DEFAULT_WEIGHTS
    activation: Activation = None
    override: Override = None
    device: Device = None
    precision: Precision = 'auto'

    def check(self) -> None:
        """Check names and paths before anything heavy is imported.

        Raises:
            InputError: of the first mistake.
        """
        check_weights(self.weights)
        check_device(self.device)
        check_precision(self.precision)
        weight_overrides(self.activation, self.override)

    def load(self) -> Any:
        """The CLIP."""
        from clipdense.inference.load import load_clip

        return load_clip(self.weights, self.device, **weight_overrides(self.activation, self.override))


@dataclass(frozen=True)
class IndexArguments:
    """The file of the embeddings."""

    index: Annotated[
        Path | None,
        typer.Option(
            '--index',
            help='File of the embeddings, written and kept up to date [default: in the cache, one for each '
            'folder and model].',
        ),
    ] = None
    reindex: Annotated[
        bool, typer.Option('--reindex', help='Embed all images again, also for other weights.')
    ] = False
    update: Annotated[
        bool,
        typer.Option('--update/--no-update', help='Look for new, changed, moved and deleted images first.'),
    ] = True

    def check(self) -> None:
        """Check the file before anything heavy is imported.

        Raises:
            InputError: another kind of file, or none to use as it is.
        """
        if self.index is not None and self.index.suffix != '.safetensors':
            raise InputError(f'--index {self.index}: an index is a .safetensors file')
        if self.reindex and not self.update:
            raise InputError('--reindex and --no-update contradict each other: remove one')
        if self.index is not None and not self.update:
            check_files(self.index)


@grouped
def search(
    folder: Annotated[
        Path, typer.Argument(help='Folder of images, with its subfolders.', show_default=False)
    ],
    model: SearchModel,
    index: IndexArguments,
    text: Annotated[str | None, typer.Argument(help='What the images show.', show_default=False)] = None,
    image: Annotated[Path | None, typer.Option('--image', help='Search by this image instead.')] = None,
    top: Top = 10,
    as_json: AsJson = False,
    out: Annotated[
        Path | None, typer.Option('--out', help='Drawing of the images that were found, .png or .jpg.')
    ] = None,
    max_pixels: MaxPixels = MAX_PIXELS,
    overwrite: Overwrite = False,
) -> None:
    """Find the images of a folder that match a text best, or look like another image.

    Images are embedded once and kept in one file; later only new and changed images are embedded. Scores are
    cosines of embeddings: they rank the images, and are not probabilities.

    Example: `clipdense search photos/ "a dog on a beach" --weights embedded --top 5`
    """
    _check(folder, text, image, out)
    for given in (model, index):
        given.check()
    check_outputs([out] if out else [], overwrite, [image, index.index, model.weights])
    check_outputs([index.index] if index.index else [], overwrite=True)
    from clipdense.inference.image_index import ImageIndex, default_file

    found = ImageIndex(model.load(), folder, model.precision, max_pixels)  # type: ignore[arg-type]
    tell_precision(found.precision)
    file = index.index or default_file(found)
    changes = _refresh(found, file, index)
    matches = found.search(image if text is None else text, top)
    if out:
        _draw(matches, text or str(image), out, max_pixels)
    if as_json:
        print_json(_facts(found, file, changes, text, image, matches))
    else:
        for match in matches:
            print(f'{match.score:.4f}  {printable(match.path)}')
    typer.echo(f'clipdense: {counted(len(found), "image")} in the index, {changes}; {file}', err=True)
    if changes.failed:
        raise typer.Exit(1)


def _check(folder: Path, text: str | None, image: Path | None, out: Path | None) -> None:
    """Check what is searched for and where.

    Raises:
        InputError: no folder, a text and an image or neither, or another kind of output file.
    """
    from clipdense.utils.image_files import list_images

    if not folder.is_dir():
        list_images(folder)  # of a name that does not exist, says which is near
        raise InputError(f'{folder} is not a folder')
    if (text is None) == (image is None):
        raise InputError('give a text or --image FILE to search for, one of the two')
    if text is not None and not text.strip():
        raise InputError('the text to search for is empty')
    check_files(image)
    if out is not None and out.suffix.lower() not in ('.png', '.jpg', '.jpeg'):
        raise InputError(f'--out {out}: the drawing of the images is written as .png or .jpg')


def _refresh(found: ImageIndex, file: Path, asked: IndexArguments) -> Changes:
    """Read the index file, bring it up to date and write it, also if the update is interrupted."""
    from clipdense.inference.image_index import Changes

    check_outputs([file], overwrite=True)
    if file.exists():
        found.check(file)  # another kind of file is never replaced
        if not asked.reindex:
            found.read(file)
    if not asked.update:
        if not len(found):
            raise InputError(f'the images of {found.folder} are not in {file} yet: leave out --no-update')
        return Changes(unchanged=len(found))
    try:
        return found.update(
            lambda _, error: typer.echo(f'clipdense: skipped: {one_line(error)}', err=True),
        )
    finally:
        if len(found) or file.exists():
            found.save(file)


def _draw(matches: list[Match], title: str, out: Path, max_pixels: int, columns: int = 5) -> None:
    """Write a drawing of the images with their scores."""
    from clipdense.inference.results import write_image
    from clipdense.utils.drawing import gallery
    from clipdense.utils.image_io import read_image

    tiles = [
        (read_image(match.path, max_pixels), f'{match.score:.3f} {match.path.name}') for match in matches
    ]
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    write_image(out, gallery(rows, title=title))


def _facts(
    found: ImageIndex,
    file: Path,
    changes: Changes,
    text: str | None,
    image: Path | None,
    matches: list[Match],
) -> dict[str, Any]:
    return {
        'query': {'text': text} if image is None else {'image': str(image)},
        'index': str(file),
        'images': len(found),
        'changes': changes.to_dict(),
        'matches': [{'image': str(match.path), 'score': match.score} for match in matches],
    }
