"""``clipdense compare``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.device_names import check_precision
from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import check_outputs
from clipdense.utils.wording import counted

from .benchmarks import MethodOptions, options_by_method
from .early import check_device, check_method, check_templates, check_weights
from .images import Failures
from .options import (
    DEFAULT_WEIGHTS,
    Activation,
    AsJson,
    Background,
    Cache,
    Device,
    ImageArguments,
    OutputFolder,
    Override,
    Overwrite,
    Precision,
    Templates,
    ViewArguments,
    VocabularyArguments,
    grouped,
    tell_precision,
    weight_overrides,
)
from .output import print_json
from .segment import refuse_without_effect, with_background

if TYPE_CHECKING:
    from clipdense.inference.comparison import Agreement, Comparison
    from clipdense.inference.segmenter import Segmenter


@dataclass(frozen=True)
class PairArguments:
    """Two segmenters: two methods, two weights, or both."""

    method: Annotated[
        list[str] | None,
        typer.Option('--method', help='Training-free method for plain CLIP weights. Give two to compare.'),
    ] = None
    weights: Annotated[
        list[str] | None,
        typer.Option(
            '--weights',
            '-w',
            help=f'A name from `clipdense models`, or a file or folder. Give two to compare. '
            f'[default: {DEFAULT_WEIGHTS}]',
        ),
    ] = None
    option: MethodOptions = None
    activation: Activation = None
    override: Override = None
    templates: Templates = None
    device: Device = None
    precision: Precision = 'auto'
    cache: Cache = True

    def pairs(self) -> list[tuple[str, str | None]]:
        """Weights and method of the first and of the second segmenter.

        Raises:
            InputError: not two different ones.
        """
        weights, methods = self.weights or [DEFAULT_WEIGHTS], self.method or []
        both: list[str | None] = [*methods] or [None]
        if max(len(weights), len(methods)) != 2:
            raise InputError(
                f'compare takes two methods or two weights, got {len(methods)} and {len(weights)}: write '
                '--method A --method B, or --weights A --weights B'
            )
        found = list(zip(weights * (3 - len(weights)), both * (3 - len(both)), strict=True))
        if found[0] == found[1]:
            raise InputError(f'{" and ".join(methods or weights)} are the same: give two that differ')
        return found

    def labels(self) -> list[str]:
        """A name for each: what differs between them."""
        pairs = self.pairs()
        differ = [len({pair[part] for pair in pairs}) == 2 for part in (1, 0)]
        return [
            ', '.join(str(pair[part]) for part, shown in zip((1, 0), differ, strict=True) if shown)
            for pair in pairs
        ]

    def check(self) -> None:
        """Check names and paths before anything heavy is imported.

        Raises:
            InputError: of the first mistake.
        """
        for weights, method in self.pairs():
            check_method(method, 'segmentation')
            check_weights(weights)
        for name in options_by_method(self.option):
            if name not in (self.method or []):
                raise InputError(f'-o {name}.: {name} is not compared: add --method {name}, or remove it')
        check_device(self.device)
        check_precision(self.precision)
        check_templates(self.templates)
        weight_overrides(self.activation, self.override)

    def load(self, view: ViewArguments) -> list[Segmenter]:
        """Both segmenters; weights that they share are read once."""
        from clipdense.inference.load import load
        from clipdense.inference.segmenter import Segmenter

        overrides, own = weight_overrides(self.activation, self.override), options_by_method(self.option)
        models: dict[str, Any] = {}
        for weights, _ in self.pairs():
            if weights not in models:
                models[weights] = load(weights, self.device, **overrides)
        return [
            Segmenter.from_pretrained(
                models[weights],
                method,
                options=view.options(),
                method_options=own.get(method or ''),
                templates=self.templates,
                precision=self.precision,  # type: ignore[arg-type]  # checked
                cache=self.cache,
            )
            for weights, method in self.pairs()
        ]


@grouped
def compare(
    images: ImageArguments,
    vocabulary: VocabularyArguments,
    pair: PairArguments,
    view: ViewArguments,
    background: Background = None,
    out: OutputFolder = Path('compared'),
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Segment images with two methods or two weights, and draw both side by side with one legend.

    Prints the part of the pixels that get the same class from both, and for each class the part of the pixels
    that have it in both, of those that have it in either.

    Example: `clipdense compare street.jpg -c 'car, road' --method maskclip --method naclip`
    """
    from clipdense.utils.image_files import output_stems
    from clipdense.utils.video import is_video

    paths = images.paths()
    classes = with_background(vocabulary.read(pair.templates), background)
    for path in paths:
        if is_video(path):
            raise InputError(f'{path} is a video: compare takes images')
    pair.check()
    files = [out / f'{stem}_comparison.png' for stem in output_stems(paths)]
    check_outputs(files, overwrite, [*paths, vocabulary.vocab, *(pair.weights or [])])
    refuse_without_effect(classes.background, view)
    from clipdense.inference.results import write_image

    segmenters, failures = pair.load(view), Failures(paths)
    tell_precision(segmenters[0].precision)
    for segmenter in segmenters:
        segmenter.set_vocabulary(classes)
    rows: list[dict[str, Any]] = []
    total: Agreement | None = None
    for index, found in _compared(segmenters, pair.labels(), paths, images.max_pixels, failures):
        with failures.of(index):
            write_image(files[index], found.draw())
            agreement = found.agreement
            total = agreement if total is None else total + agreement
            rows.append({'image': str(paths[index]), 'comparison': str(files[index]), **agreement.to_dict()})
            if not as_json:
                print(f'{printable(files[index])}: {_line(agreement)}', flush=True)
    failures.check_any_left()
    assert total is not None
    if as_json:
        facts = {'compared': pair.labels(), 'images': rows, 'total': total.to_dict()}
        print_json(facts)
    elif len(rows) > 1:
        print(f'{counted(len(rows), "image")}: {_line(total)}')
    failures.exit(out)


def _compared(
    segmenters: list[Segmenter], labels: list[str], paths: list[Path], max_pixels: int, failures: Failures
) -> Iterator[tuple[int, Comparison]]:
    """Index and comparison of each image, which is decoded once."""
    from clipdense.inference.comparison import Comparison
    from clipdense.utils.image_io import read_image
    from clipdense.utils.progress import track

    for index, path in enumerate(track(paths, 'comparing', total=len(paths))):
        with failures.of(index):
            image = read_image(path, max_pixels)
            first, second = (segmenter(image) for segmenter in segmenters)
            yield index, Comparison(first, second, labels)


def _line(agreement: Agreement) -> str:
    parts = ', '.join(f'{printable(name)} {part:.0%}' for name, part in agreement.by_class().items())
    return f'{agreement.total:.1%} of the pixels agree; {parts}'
