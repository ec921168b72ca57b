"""Verbs that run a model on the user's own pictures and words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.errors import InputError

from .options import (
    DEFAULT_WEIGHTS,
    Activation,
    Cache,
    Classes,
    Device,
    Images,
    NamedVocab,
    Overwrite,
    Templates,
    VocabFile,
    Weights,
    read_vocabulary,
    refuse_existing,
    weight_overrides,
)

if TYPE_CHECKING:
    from clipdense.inference.results import Segmentation

Background = Annotated[
    str | None, typer.Option(help='Class that takes improbable pixels; added in front of the classes if new.')
]


def segment(
    images: Images,
    classes: Classes = None,
    vocab: VocabFile = None,
    preset: NamedVocab = None,
    weights: Weights = DEFAULT_WEIGHTS,
    method: Annotated[
        str, typer.Option(help='Training-free method: maskclip, sclip, naclip, sc_clip, ...')
    ] = 'maskclip',
    option: Annotated[
        list[str] | None, typer.Option(help="Of the method: 'std=3.0'. May be repeated.")
    ] = None,
    proxy: Annotated[str | None, typer.Option(help='Backbone of timm that proxyclip looks through.')] = None,
    out: Annotated[Path, typer.Option('--out', '-o', help='Folder for the results.')] = Path('segmented'),
    background: Background = None,
    threshold: Annotated[float, typer.Option(help='Probability below which a pixel is background.')] = 0.0,
    min_area: Annotated[
        float, typer.Option(help='Give up classes with no more than this share of what is not background.')
    ] = 0.0,
    refine: Annotated[bool, typer.Option('--refine', help='Let masks follow edges (PAMR).')] = False,
    short_side: Annotated[int | None, typer.Option(help='Resize the shorter side to this first.')] = None,
    window: Annotated[int | None, typer.Option(help='Side of sliding windows; 0 for none.')] = None,
    scales: Annotated[str, typer.Option(help="Sizes to average over: '0.75, 1, 1.25'.")] = '1',
    flip: Annotated[bool, typer.Option('--flip', help='Average over mirrored pictures too.')] = False,
    opacity: Annotated[float, typer.Option(min=0.0, max=1.0, help='Of the colours in the overlay.')] = 0.6,
    templates: Templates = 'imagenet',
    activation: Activation = None,
    device: Device = None,
    cache: Cache = True,
    overwrite: Overwrite = False,
) -> None:
    """Segment pictures with words: an overlay, a palette mask and a JSON file for each.

    Example: `clipdense segment street.jpg --classes 'car, road, tree' --weights ViT-B-16.pt`
    """
    from clipdense.inference.segmenter import Segmenter
    from clipdense.utils.image_files import list_images, output_stems

    paths = list_images(images)
    vocabulary = _with_background(read_vocabulary(classes, vocab, preset), background)
    stems = [out / stem for stem in output_stems(paths)]
    endings = ('_overlay.png', '_mask.png', '.json')
    refuse_existing([Path(f'{stem}{ending}') for stem in stems for ending in endings], overwrite)
    segmenter = Segmenter.from_pretrained(
        weights,
        method,
        slide=short_side,
        background_threshold=threshold,
        area_threshold=min_area,
        refine=refine,
        options=_method_options(option),
        proxy=proxy,
        templates=templates,
        device=device,
        cache=cache,
        **weight_overrides(activation),
    )
    segmenter.model.slide = _views(segmenter.model.slide, window, scales, flip)
    segmenter.set_vocabulary(vocabulary)

    def one(index: int) -> str:
        return _write_segmentation(segmenter(paths[index]), paths[index], stems[index], opacity)

    _each(paths, one, 'segmenting')


def classify(
    images: Images,
    classes: Classes = None,
    vocab: VocabFile = None,
    preset: NamedVocab = None,
    weights: Weights = DEFAULT_WEIGHTS,
    top: Annotated[int, typer.Option(min=1, help='Classes to print for each picture.')] = 5,
    out: Annotated[
        Path | None, typer.Option('--out', '-o', help='Write all results to this JSON file.')
    ] = None,
    templates: Templates = 'imagenet',
    activation: Activation = None,
    device: Device = None,
    cache: Cache = True,
    overwrite: Overwrite = False,
) -> None:
    """Say which of the words fits each picture best.

    Example: `clipdense classify photos/ --classes 'cat, dog, bird' --weights ViT-B-32/openai`
    """
    from clipdense.inference.classifier import Classifier
    from clipdense.inference.results import write_json
    from clipdense.utils.image_files import list_images

    paths = list_images(images)
    vocabulary = read_vocabulary(classes, vocab, preset)
    refuse_existing([out] if out else [], overwrite)
    classifier = Classifier.from_pretrained(
        weights, templates=templates, device=device, cache=cache, **weight_overrides(activation)
    )
    classifier.set_vocabulary(vocabulary)
    rows: list[dict] = []

    def one(index: int) -> str:
        best = classifier(paths[index]).top(top)
        rows.append({'image': str(paths[index]), 'classes': [{'name': n, 'probability': p} for n, p in best]})
        return f'{paths[index]}: ' + ', '.join(f'{name} {probability:.1%}' for name, probability in best)

    try:
        _each(paths, one, 'classifying')
    finally:
        if out and rows:
            write_json(out, rows)


def embed(
    classes: Classes = None,
    vocab: VocabFile = None,
    preset: NamedVocab = None,
    weights: Weights = DEFAULT_WEIGHTS,
    out: Annotated[Path, typer.Option('--out', '-o', help='The .safetensors file to write.')] = Path(
        'vocabulary.safetensors'
    ),
    templates: Templates = 'imagenet',
    activation: Activation = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the embeddings of a vocabulary, for use without the text tower.

    Example: `clipdense embed --preset coco --weights ViT-B-32/openai --out coco.safetensors`
    """
    from clipdense.clip.text_embeddings import embed_vocabulary, save_embeddings
    from clipdense.inference.hub import load_clip

    vocabulary = read_vocabulary(classes, vocab, preset)
    refuse_existing([out], overwrite)
    clip = load_clip(weights, device, **weight_overrides(activation))
    embeddings = embed_vocabulary(clip, vocabulary, templates, cache=None)
    save_embeddings(out, vocabulary, embeddings)
    queries, width = embeddings.queries.shape
    print(f'{out}: {len(vocabulary)} classes, {queries} queries of {width} numbers')


def _write_segmentation(result: Segmentation, path: Path, stem: Path, opacity: float) -> str:
    """Overlay, mask and JSON of one picture; a line about it."""
    from clipdense.inference.results import write_image, write_json

    result.save(f'{stem}_mask.png')
    write_image(f'{stem}_overlay.png', result.draw(opacity=opacity))
    write_json(f'{stem}.json', {'image': str(path), **result.to_dict()})
    top = ', '.join(f'{name} {share:.0%}' for name, share in list(result.shares().items())[:3])
    return f'{stem}_overlay.png: {top}'


def _with_background(vocabulary, name: str | None):
    """Name the background; a new name goes in front, as PASCAL VOC counts."""
    from dataclasses import replace

    if name is None:
        return vocabulary
    if name in vocabulary.class_names:
        return replace(vocabulary, background=name)
    return vocabulary.with_background(name=name)


def _method_options(given: list[str] | None) -> dict[str, Any]:
    """``['std=3.0']`` -> ``{'std': 3.0}``; what is no Python literal is text.

    Raises:
        InputError: not of the form name=value.
    """
    from ast import literal_eval

    options: dict[str, Any] = {}
    for text in given or ():
        name, equals, value = text.partition('=')
        if not (name and equals):
            raise InputError(f'--option takes name=value, such as std=3.0, not {text!r}')
        try:
            options[name.strip()] = literal_eval(value.strip())
        except (ValueError, SyntaxError):
            options[name.strip()] = value.strip()
    return options


def _views(slide, window: int | None, scales: str, flip: bool):
    """The method's way before the tower, with what was asked for.

    Raises:
        InputError: scales that are no positive numbers.
    """
    from dataclasses import replace

    try:
        sizes = tuple(float(part) for part in scales.split(','))
        slide = replace(slide, scales=sizes, flip=flip)
    except ValueError as error:
        raise InputError(
            f"--scales takes positive numbers, such as '0.75, 1, 1.25', not {scales!r}"
        ) from error
    if window is None:
        return slide
    return replace(slide, window=window or None, stride=max(1, window // 2) if window else None)


def _each(paths: list[Path], work: Callable[[int], str], doing: str) -> None:
    """Do the work for each picture; a bad picture is reported and the rest goes on.

    Raises:
        InputError: the only picture, or every one, is bad.
        typer.Exit: with status 1 where some are bad.
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
        raise InputError(failed[0] if len(paths) == 1 else f'none of {len(paths)} pictures could be read')
    if failed:
        typer.echo(f'clipdense: {len(failed)} of {len(paths)} pictures were skipped', err=True)
        raise typer.Exit(1)
