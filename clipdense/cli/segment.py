"""``clipdense segment``."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.errors import InputError

from .images import each
from .options import (
    DEFAULT_WEIGHTS,
    Activation,
    Cache,
    Classes,
    Device,
    Images,
    NamedVocab,
    Overwrite,
    VocabFile,
    Weights,
    read_vocabulary,
    refuse_existing,
    weight_overrides,
)

if TYPE_CHECKING:
    from clipdense.inference.segmenter import Segmenter
    from clipdense.tasks.windows import Slide
    from clipdense.vocab.vocabulary import Vocabulary

Background = Annotated[
    str | None, typer.Option(help='Class that takes improbable pixels; added in front of the classes if new.')
]
Config = Annotated[
    str | None, typer.Option(help='Config that the weights were trained by, where they do not say it.')
]
ConfigOptions = Annotated[
    list[str] | None,
    typer.Option('--cfg-options', help="Change a setting of the config: 'model.clip=CLIP'. May be repeated."),
]
Method = Annotated[
    str | None, typer.Option(help='Training-free method (maskclip unless said): sclip, naclip, sc_clip, ...')
]
Option = Annotated[list[str] | None, typer.Option(help="Of the method: 'std=3.0'. May be repeated.")]
Proxy = Annotated[
    str | None, typer.Option(help='Backbone of timm that proxyclip looks through: NAME, NAME=FILE or FILE.')
]
Out = Annotated[Path, typer.Option('--out', '-o', help='Folder for the results.')]
Threshold = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, help='Score below which a pixel is background.')
]
MinArea = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help='Give up classes with no more than this share of the foreground.'),
]
Refine = Annotated[bool, typer.Option('--refine', help='Let masks follow edges (PAMR).')]
ShortSide = Annotated[int | None, typer.Option(min=1, help='Resize the shorter side to this first.')]
WindowSide = Annotated[int | None, typer.Option('--window', help='Side of sliding windows; 0 for none.')]
Scales = Annotated[str, typer.Option(help="Sizes to average over: '0.75, 1, 1.25'.")]
Flip = Annotated[bool, typer.Option('--flip', help='Average over mirrored images too.')]
Opacity = Annotated[float, typer.Option(min=0.0, max=1.0, help='Of the colours in the overlay.')]
Explain = Annotated[bool, typer.Option('--explain', help='GroupViT: its groups of each stage, too.')]
MethodTemplates = Annotated[
    str | None, typer.Option(help="Prompt templates, the method's own unless said: imagenet, simple, ...")
]


def segment(
    images: Images,
    classes: Classes = None,
    vocab: VocabFile = None,
    preset: NamedVocab = None,
    weights: Weights = DEFAULT_WEIGHTS,
    config: Config = None,
    cfg_options: ConfigOptions = None,
    method: Method = None,
    option: Option = None,
    proxy: Proxy = None,
    out: Out = Path('segmented'),
    background: Background = None,
    threshold: Threshold = None,
    min_area: MinArea = 0.0,
    refine: Refine = False,
    short_side: ShortSide = None,
    window: WindowSide = None,
    scales: Scales = '1',
    flip: Flip = False,
    opacity: Opacity = 0.6,
    explain: Explain = False,
    templates: MethodTemplates = None,
    activation: Activation = None,
    device: Device = None,
    cache: Cache = True,
    overwrite: Overwrite = False,
) -> None:
    """Segment images with words: an overlay, a palette mask and a JSON file for each.

    Example: `clipdense segment street.jpg --classes 'car, road, tree' --weights ViT-B-16.pt`
    """
    from clipdense.config import parse_options
    from clipdense.inference.segmenter import Segmenter
    from clipdense.utils.image_files import list_images

    paths = list_images(images)
    vocabulary = _with_background(read_vocabulary(classes, vocab, preset), background)
    _refuse_without_effect(vocabulary, config, cfg_options, threshold, min_area)
    stems = _free_stems(paths, out, overwrite)
    common: dict[str, Any] = {'templates': templates, 'device': device, 'cache': cache}
    if config is not None:
        _refuse_beside_config(method, option, proxy, threshold, min_area, refine, activation)
        segmenter = Segmenter.from_config(config, weights, options=cfg_options or (), **common)
    else:
        segmenter = Segmenter.from_pretrained(
            weights,
            method,
            slide=short_side,
            background_threshold=threshold,
            area_threshold=min_area,
            refine=refine,
            options=parse_options(option or ()),
            proxy=proxy,
            **common,
            **weight_overrides(activation),
        )
    if explain and not segmenter.makes_groups:
        raise InputError('--explain shows groups, which only a GroupViT makes: leave it out, or give one')
    segmenter.model.slide = _views(segmenter.model.slide, short_side, window, scales, flip)
    segmenter.set_vocabulary(vocabulary)

    def one(index: int) -> str:
        return _write(segmenter, paths[index], stems[index], opacity, explain)

    each(paths, one, 'segmenting')


def _free_stems(paths: list[Path], out: Path, overwrite: bool) -> list[Path]:
    """Where the files of each image go, without their endings."""
    from clipdense.utils.image_files import output_stems

    stems = [out / stem for stem in output_stems(paths)]
    endings = ('_overlay.png', '_mask.png', '.json')
    refuse_existing([Path(f'{stem}{ending}') for stem in stems for ending in endings], overwrite)
    return stems


def _with_background(vocabulary: Vocabulary, name: str | None) -> Vocabulary:
    """Name the background; a new name goes in front, as PASCAL VOC counts."""
    if name is None:
        return vocabulary
    if name in vocabulary.class_names:
        return replace(vocabulary, background=name)
    return vocabulary.with_background(name=name)


def _write(segmenter: Segmenter, path: Path, stem: Path, opacity: float, explain: bool) -> str:
    """Overlay, mask and JSON of one image, and its groups where wanted; a line about it."""
    from clipdense.inference.results import write_image, write_json

    if explain:
        _write_groups(segmenter, path, stem, opacity)
    result = segmenter(path)
    result.save(f'{stem}_mask.png')
    write_image(f'{stem}_overlay.png', result.draw(opacity=opacity))
    write_json(f'{stem}.json', {'image': str(path), **result.to_dict()})
    fractions = list(result.class_fractions().items())[:3]
    top = ', '.join(f'{name} {fraction:.0%}' for name, fraction in fractions)
    return f'{stem}_overlay.png: {top}'


def _write_groups(segmenter: Segmenter, path: Path, stem: Path, opacity: float) -> None:
    """An image for each stage of a GroupViT."""
    from clipdense.inference.results import write_image
    from clipdense.utils.image_io import read_image

    image = read_image(path)
    for stage in segmenter.explain(image):
        write_image(f'{stem}_groups_{stage.stage}.png', stage.draw(image, opacity))


def _refuse_without_effect(
    vocabulary: Vocabulary,
    config: str | None,
    cfg_options: list[str] | None,
    threshold: float | None,
    min_area: float,
) -> None:
    """Options that would do nothing.

    Raises:
        InputError: one of these, with what is missing beside it.
    """
    if vocabulary.background is None and (threshold is not None or min_area):
        raise InputError(
            '--threshold and --min-area give pixels to the background, and no class is it: '
            'add --background NAME'
        )
    if cfg_options and config is None:
        raise InputError('--cfg-options changes a config: add --config, or leave it out')


def _refuse_beside_config(*given: object) -> None:
    """What a config says is said there.

    Raises:
        InputError: one of these options was given all the same.
    """
    if any(given):
        raise InputError(
            '--method, --option, --proxy, --threshold, --min-area, --refine and --activation have no place '
            'beside --config: change the entry in the config'
        )


def _views(slide: Slide, short_side: int | None, window: int | None, scales: str, flip: bool) -> Slide:
    """The method's way before the tower, with what was asked for.

    Raises:
        InputError: scales that are no positive numbers.
    """
    try:
        sizes = tuple(float(part) for part in scales.split(','))
        if not all(0 < size < inf for size in sizes):
            raise ValueError(f'{sizes} are no scales')
    except ValueError as error:
        raise InputError(
            f"--scales takes positive numbers, such as '0.75, 1, 1.25', not {scales!r}"
        ) from error
    slide = replace(slide, short_side=short_side or slide.short_side, scales=sizes, flip=flip)
    if window is None:
        return slide
    return replace(slide, window=window or None, stride=max(1, window // 2) if window else None)
