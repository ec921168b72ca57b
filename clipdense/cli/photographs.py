"""The first part of ``clipdense quickstart``: photographs, classified and segmented by the embedded model."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipdense.utils.errors import InputError

if TYPE_CHECKING:
    from clipdense.inference.results import Classification, Segmentation

WEIGHTS = 'embedded'
TEMPLATES = ('a photo of a {}.',)  # that of the model's own table
SCALES = (1.0, 1.5, 2.0)
SHORT_SIDE = 320
TILE = 300  # pixels of each image in the gallery
COLUMNS = 4


@dataclass(frozen=True)
class Photograph:
    """An image and the class names to look for.

    Args:
        file: of the image.
        names: class names of the masks.
    """

    file: Path
    names: tuple[str, ...]


def installed_photographs() -> list[Photograph]:
    """Four photographs that the package scikit-image carries (public domain or CC0); it is not imported.

    Raises:
        InputError: it is not installed, or has other files.
    """
    spec = importlib.util.find_spec('skimage')
    if spec is None or not spec.submodule_search_locations:
        raise InputError('scikit-image is not installed: pip install "clipdense[embedded]"')
    folder = Path(next(iter(spec.submodule_search_locations))) / 'data'
    photographs = [Photograph(folder / file, names) for file, names in _NAMES.items()]
    missing = [one.file.name for one in photographs if not one.file.is_file()]
    if missing:
        raise InputError(f'{folder} lacks {", ".join(missing)}: pip install --force-reinstall scikit-image')
    return photographs


_NAMES = {
    'chelsea.png': ('cat', 'sofa', 'wall'),
    'coffee.png': ('coffee cup', 'table'),
    'astronaut.png': ('astronaut', 'flag', 'space shuttle', 'wall'),
    'rocket.jpg': ('rocket', 'tower', 'sky'),
}


def show_photographs(photographs: Sequence[Photograph], gallery: Path, device: str = 'cpu') -> None:
    """Classify and segment photographs, print what was found, and write a gallery.

    Each image is classified among the names of all photographs, and segmented with its own.

    Raises:
        InputError: the embedded model is not installed, or an image cannot be read.
    """
    import clipdense
    from clipdense.inference.classifier import Classifier
    from clipdense.inference.results import write_image
    from clipdense.inference.segmenter import Segmenter
    from clipdense.tasks.options import SegmentationOptions
    from clipdense.utils.drawing import gallery as draw_gallery

    clip = clipdense.load(WEIGHTS, device)
    classifier = Classifier.from_pretrained(clip, templates=TEMPLATES, cache=False)
    options = SegmentationOptions(short_side=SHORT_SIDE, window=0, scales=SCALES, refine=True)
    segmenter = Segmenter.from_pretrained(clip, options=options, templates=TEMPLATES, cache=False)
    everything = list(dict.fromkeys(name for one in photographs for name in one.names))
    tiles = []
    for one in photographs:
        begin = time.monotonic()
        classified, segmented = classifier(one.file, everything), segmenter(one.file, list(one.names))
        print(_line(one.file, classified, segmented, time.monotonic() - begin), flush=True)
        assert segmented.image is not None  # the segmenter keeps what it has read
        tiles.append((segmented.image.copy(), _top(classified), segmented.draw(side=TILE)))
    rows = []
    for start in range(0, len(tiles), COLUMNS):
        part = tiles[start : start + COLUMNS]
        rows.append([(image, top) for image, top, _ in part])
        rows.append([(mask, '') for _, _, mask in part])
    write_image(gallery, draw_gallery(rows, tile=TILE))


def _top(classified: Classification) -> str:
    return ', '.join(f'{name} {probability:.0%}' for name, probability in classified.top(3))


def _line(file: Path, classified: Classification, segmented: Segmentation, seconds: float) -> str:
    areas = ', '.join(f'{name} {part:.0%}' for name, part in segmented.class_fractions().items())
    return f'{file.name:16} {_top(classified):52} pixels: {areas}  ({seconds:.1f} s)'


def say_where(gallery: Path, seconds: float) -> None:
    """Print where the gallery is, and what to try next."""
    print(f'{seconds:.0f} seconds.  Gallery: {gallery}')
    print(f"Yours: clipdense segment PHOTO --classes 'a, b, c' --weights {WEIGHTS}")
    typer.echo(
        'The embedded model is small; --weights ViT-B-16/openai (downloaded) is far more accurate.', err=True
    )
