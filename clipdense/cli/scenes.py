"""Segment large images in rows: a mask, a reduced overlay and a JSON file for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.errors import InputError, item_error
from clipdense.utils.files import check_outputs

from .images import each
from .options import OutputArguments, ViewArguments

if TYPE_CHECKING:
    from clipdense.inference.scenes import SceneSegmentation
    from clipdense.inference.segmenter import Segmenter
    from clipdense.utils.rasters import RasterOptions


@dataclass(frozen=True)
class SceneArguments:
    """Reading images in rows, and the bands of GeoTIFF files."""

    tiled: Annotated[
        bool,
        typer.Option(
            '--tiled',
            help='Read, segment and write a few rows at a time: memory does not grow with the image.',
        ),
    ] = False
    bands: Annotated[
        str | None,
        typer.Option(help="With --tiled: the bands of a TIFF that are red, green and blue: '3,2,1'."),
    ] = None
    value_range: Annotated[
        str | None,
        typer.Option(help="With --tiled: the values of a TIFF that become black and white: '0,3000'."),
    ] = None

    def raster(self, view: ViewArguments, needs_image: bool) -> RasterOptions | None:
        """How files are read; None where ``--tiled`` was not given.

        Args:
            view: the other options of the command.
            needs_image: whether results are asked that need the whole image.

        Raises:
            InputError: options that do not fit together, or are not numbers.
        """
        if not self.tiled:
            if self.bands or self.value_range:
                raise InputError('--bands and --value-range need --tiled: add it')
            return None
        if needs_image or view.area_threshold:
            raise InputError(
                '--explain, --save and --area-threshold need the whole image: remove them, or --tiled'
            )
        from clipdense.utils.rasters import RasterOptions

        bands = None if self.bands is None else _numbers(self.bands, '--bands', '3,2,1')
        if bands is not None and any(one != int(one) for one in bands):
            raise InputError(f"--bands must be whole numbers, such as '3,2,1', got {self.bands!r}")
        low_high = None if self.value_range is None else _numbers(self.value_range, '--value-range', '0,3000')
        if low_high is not None and len(low_high) != 2:
            raise InputError(f"--value-range must be two numbers, such as '0,3000', got {self.value_range!r}")
        return RasterOptions(
            None if bands is None else tuple(int(one) for one in bands),
            None if low_high is None else (low_high[0], low_high[1]),
        )


def scene_stems(
    paths: Sequence[Path], out: Path, overwrite: bool, inputs: Sequence[str | Path | None]
) -> list[Path]:
    """Paths of the output files of each image, without suffix; none of them is an input."""
    from clipdense.utils.image_files import output_stems

    stems = [out / stem for stem in output_stems(paths)]
    files = [mask_path(path, stem) for path, stem in zip(paths, stems, strict=True)]
    files += [Path(f'{stem}{ending}') for stem in stems for ending in ('_overlay.png', '.json')]
    check_outputs(files, overwrite, inputs)
    return stems


def check_scene(paths: Sequence[Path], raster: RasterOptions, max_pixels: int) -> None:
    """Refuse a single image that cannot be read, before a model is loaded; others are skipped later.

    Raises:
        InputError: its size, its bands, or their values.
    """
    from clipdense.utils.rasters import check_raster

    if len(paths) == 1:
        check_raster(paths[0], raster, max_pixels)


def mask_path(path: Path, stem: Path) -> Path:
    """The file of the mask: TIFF for TIFF where rasterio is installed, else PNG."""
    from clipdense.utils.rasters import has_rasterio

    tiff = path.suffix.lower() in ('.tif', '.tiff') and has_rasterio()
    return Path(f'{stem}_mask.tif' if tiff else f'{stem}_mask.png')


def segment_scenes(
    segmenter: Segmenter,
    paths: Sequence[Path],
    stems: Sequence[Path],
    output: OutputArguments,
    raster: RasterOptions,
    max_pixels: int,
) -> None:
    """Segment large images with the vocabulary of the segmenter, one after another.

    Raises:
        InputError: all failed.
        typer.Exit: with status 1 if some failed.
    """
    from clipdense.inference.results import write_image, write_json
    from clipdense.inference.scenes import segment_scene
    from clipdense.utils.progress import track

    progress = track if len(paths) == 1 else None  # two bars cannot be shown at once

    def predict(failed: Callable[[int, InputError], None]) -> Iterator[tuple[int, SceneSegmentation]]:
        for index, path in enumerate(paths):
            out = mask_path(path, stems[index])
            try:
                found = segment_scene(segmenter, path, out, None, raster, max_pixels, progress)
            except Exception as error:
                failed(index, item_error(error, path))
                continue
            yield index, found

    def finish(index: int, found: SceneSegmentation) -> str:
        stem = stems[index]
        write_image(f'{stem}_overlay.png', found.preview.draw(opacity=output.opacity))
        about = {'image': str(paths[index]), 'precision': segmenter.precision}
        write_json(f'{stem}.json', {**about, **found.to_dict()})
        top = ', '.join(f'{name} {share:.0%}' for name, share in list(found.class_fractions().items())[:3])
        return f'{found.path}: {top}'

    each(paths, predict, finish, 'segmenting', output.out)


def _numbers(text: str, option: str, example: str) -> list[float]:
    """``'3,2,1'`` -> [3, 2, 1].

    Raises:
        InputError: not numbers.
    """
    try:
        return [float(part) for part in text.split(',')]
    except ValueError as error:
        raise InputError(f'{option} must be numbers, such as {example!r}, got {text!r}') from error
