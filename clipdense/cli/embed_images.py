"""``clipdense embed images``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdense.utils.command_options import JobPart
from clipdense.utils.errors import InputError, one_line
from clipdense.utils.files import check_output_folder

from .caption_shards import tell_damaged
from .options import MAX_PIXELS, MaxPixels, grouped, tell_precision
from .search import SearchModel


@grouped
def images(
    source: Annotated[
        str, typer.Argument(help="A folder of images, or shards: a folder or 'data/{000..099}.tar'.")
    ],
    out: Annotated[Path, typer.Argument(help='Output folder; an incomplete one is completed.')],
    model: SearchModel,
    part: JobPart = None,
    max_pixels: MaxPixels = MAX_PIXELS,
) -> None:
    """Write CLIP embeddings of images: a file for each shard, or for each 10,000 images of a folder.

    Run it again after an interruption.

    Example: `clipdense embed images photos/ embeddings/ --weights embedded`
    """
    from clipdense.utils.jobs import Part

    own = Part.parse(part)
    model.check()
    if not {'{', ':'} & set(source) and not Path(source).expanduser().exists():
        raise InputError(f'{source} does not exist')
    check_output_folder(out)
    from clipdense.inference.image_embeddings import embed_images
    from clipdense.layers.precision import precision_name, resolve_precision

    clip = model.load()
    found = resolve_precision(model.precision, next(clip.parameters()).device)
    if found is not None:
        tell_precision(precision_name(found))

    def skipped(_: str, error: InputError) -> None:
        typer.echo(f'clipdense: skipped: {one_line(error)}', err=True)

    done = embed_images(clip, source, out, own, model.precision, max_pixels, skipped)  # type: ignore[arg-type]
    of_part = f' (part {own})' if own.count > 1 else ''
    left = f', {done.failed} skipped' if done.failed else ''
    print(f'{out}: {done.embedded} images embedded{left}{of_part}')
    tell_damaged(out)
    if done.failed:
        raise typer.Exit(1)
