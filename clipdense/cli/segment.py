"""``clipdense segment``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.methods import list_methods
from clipdense.utils.errors import InputError, item_error
from clipdense.utils.files import check_outputs

from .early import check_method, check_templates
from .images import each
from .options import (
    Background,
    BatchSize,
    ConfigArguments,
    DenseMethod,
    ImageArguments,
    InferenceArguments,
    Options,
    OutputArguments,
    Templates,
    ViewArguments,
    VocabularyArguments,
    grouped,
    tell_precision,
)
from .proposed_names import ProposalArguments
from .saving import SaveArguments, finished
from .scenes import SceneArguments, check_scene, scene_stems, segment_scenes
from .videos import LiveArguments, all_videos, segment_videos, video_stems

if TYPE_CHECKING:
    from clipdense.inference.results import Segmentation
    from clipdense.inference.segmenter import Segmenter
    from clipdense.vocab.vocabulary import Vocabulary

Explain = Annotated[
    bool, typer.Option('--explain', help='Also draw maps that explain the masks, such as groups of GroupViT.')
]


@grouped
def segment(
    images: ImageArguments,
    vocabulary: VocabularyArguments,
    proposed: ProposalArguments,
    weights: InferenceArguments,
    view: ViewArguments,
    output: OutputArguments,
    config: ConfigArguments,
    dataset: SaveArguments,
    scene: SceneArguments,
    live: LiveArguments,
    method: DenseMethod = None,
    option: Options = None,
    background: Background = None,
    templates: Templates = None,
    explain: Explain = False,
    batch_size: BatchSize = 'auto',
) -> None:
    """Segment images by class names. Writes an overlay, a palette mask and a JSON file for each image.

    `-o` sets an option of the method (see `clipdense methods NAME`), or of the config with `--config`.

    Example: `clipdense segment street.jpg --classes 'car, road, tree' --weights ViT-B-16.pt`
    """
    source = live.source(images.images, images.max_pixels)
    paths = images.paths() if source is None else []
    proposed.check(vocabulary)
    classes = None if proposed.asked else with_background(vocabulary.read(templates), background)
    for given in (config, weights, dataset):
        given.check()
    if config.config is None:
        check_method(method, 'segmentation', option)
    check_templates(templates)
    refuse_without_effect(background if classes is None else classes.background, view)
    whole = explain or bool(dataset.save)
    raster = scene.raster(view, whole)
    videos = [source] if source else paths if all_videos(paths) else []
    build = partial(_segmenter, weights, method, option or [], config, view, templates)
    read = [*paths, vocabulary.vocab, *weights.inputs(), config.config, proposed.caption_weights]
    if classes is None:
        proposed.refuse_with(whole, raster is not None, bool(videos))
        finish = partial(_finish, paths, _free_stems(paths, output, read), output.opacity)
        task = partial(proposed.segment, vocabulary, build, paths, images.max_pixels, finish, output.out)
        task(complete=partial(with_background, name=background), cache=weights.cache)
        return
    stems = _stems(source, paths, output, [*read, *classes.example_files], whole, (raster, images.max_pixels))
    writers = dataset.writers(output.out, paths, classes, output.overwrite)
    segmenter = build()
    if explain:
        _check_explains(segmenter)
    tell_precision(segmenter.precision)
    segmenter.set_vocabulary(classes)
    if videos:
        segment_videos(segmenter, videos, stems, output, images.max_pixels)
        return
    if raster:
        segment_scenes(segmenter, paths, stems, output, raster, images.max_pixels)
        return

    def predict(failed: Callable[[int, InputError], None]) -> Iterator[tuple[int, Segmentation]]:
        found = segmenter.stream(paths, batch_size=batch_size, on_error=failed, max_pixels=images.max_pixels)
        return _explained(segmenter, found, paths, stems, output.opacity, failed) if explain else found

    def write(index: int, result: Segmentation) -> str:
        for writer in writers:
            writer.add(index, result)
        return _finish(paths, stems, output.opacity, segmenter, index, result)

    with finished(writers):
        each(paths, predict, write, 'segmenting', output.out)


def _stems(
    source: Any,
    paths: Sequence[Path],
    output: OutputArguments,
    read: Sequence[str | Path | None],
    whole: bool,
    tiled: tuple[Any, int],
) -> Any:
    """Paths of the output files of each input, without suffix; ``source`` is a camera or a stream."""
    raster, max_pixels = tiled
    if source or all_videos(paths):
        _check_video_options(whole, raster is not None)
        return video_stems([source.name] if source else paths, output.out, output.overwrite, read)
    if raster:
        stems = scene_stems(paths, output.out, output.overwrite, read)
        check_scene(paths, raster, max_pixels)
        return stems
    return _free_stems(list(paths), output, read)


def _finish(
    paths: Sequence[Path],
    stems: Sequence[Path],
    opacity: float,
    segmenter: Segmenter,
    index: int,
    result: Segmentation,
    **about: Any,
) -> str:
    """Write the files of an image; returns a line to print."""
    facts = {'image': str(paths[index]), 'precision': segmenter.precision, **about}
    return _write(result, facts, stems[index], opacity)


def _explained(
    segmenter: Segmenter,
    found: Iterator[tuple[int, Segmentation]],
    paths: Sequence[Path],
    stems: Sequence[Path],
    opacity: float,
    failed: Callable[[int, InputError], None],
) -> Iterator[tuple[int, Segmentation]]:
    """Write the maps that explain each result."""
    from clipdense.inference.results import write_image

    for index, result in found:
        try:
            for stage in segmenter.explain(result.image):
                write_image(f'{stems[index]}_{stage.name}.png', stage.draw(result.image, opacity))
        except Exception as error:
            failed(index, item_error(error, paths[index]))
            continue
        yield index, result


def _check_video_options(whole: bool, tiled: bool) -> None:
    if whole:
        raise InputError('a video gives an overlay and a JSON file only: remove --explain and --save')
    if tiled:
        raise InputError('videos are read frame by frame: remove --tiled')


def _check_explains(segmenter: Segmenter) -> None:
    if not segmenter.explains:
        able = ', '.join(one.name for one in list_methods('segmentation') if one.explain)
        raise InputError(f'--explain needs weights of a method that can explain its masks: {able}')


def _segmenter(
    weights: InferenceArguments,
    method: str | None,
    option: list[str],
    config: ConfigArguments,
    view: ViewArguments,
    templates: str | None,
) -> Segmenter:
    from clipdense.config import parse_options
    from clipdense.inference.segmenter import Segmenter

    common: dict[str, Any] = {
        'templates': templates,
        'device': weights.device,
        'precision': weights.precision,
        'cache': weights.cache,
        'embedder': weights.embedder,
        'adapter': weights.adapter,
    }
    cfg = config.read()
    if cfg is None:
        return Segmenter.from_pretrained(
            weights.weights,
            method,
            options=view.options(),
            method_options=parse_options(option),
            **common,
            **weights.overrides(),
        )
    if method or weights.overrides():
        raise InputError(
            '--method, --activation and --override cannot be combined with --config, which specifies them: '
            'remove them'
        )
    return Segmenter.from_config(
        cfg, weights.weights, config_options=option, options=view.options(), **common
    )


def _free_stems(
    paths: list[Path], output: OutputArguments, inputs: Sequence[str | Path | None]
) -> list[Path]:
    """Paths of the output files of each image, without suffix; none of them is an input."""
    from clipdense.utils.image_files import output_stems

    stems = [output.out / stem for stem in output_stems(paths)]
    endings = ('_overlay.png', '_mask.png', '.json')
    check_outputs([Path(f'{stem}{ending}') for stem in stems for ending in endings], output.overwrite, inputs)
    return stems


def with_background(vocabulary: Vocabulary, name: str | None) -> Vocabulary:
    """Set the background class; a new name becomes the first class, as in PASCAL VOC."""
    if name is None:
        return vocabulary
    if name in vocabulary:
        return replace(vocabulary, background=name)
    return vocabulary.with_background(name=name)


def refuse_without_effect(background: str | None, view: ViewArguments) -> None:
    """Refuse thresholds that have no effect without a background class.

    Raises:
        InputError: there is no background class.
    """
    if background is None and view.options().needs_background:
        raise InputError(
            '--background-threshold and --area-threshold require a background class: add --background NAME'
        )


def _write(result: Segmentation, about: dict[str, Any], stem: Path, opacity: float) -> str:
    """Write overlay, mask and JSON of an image; returns a line to print."""
    from clipdense.inference.results import write_image, write_json

    result.save(f'{stem}_mask.png')
    write_image(f'{stem}_overlay.png', result.draw(opacity=opacity))
    write_json(f'{stem}.json', {**about, **result.to_dict()})
    top = ', '.join(f'{name} {share:.0%}' for name, share in list(result.class_fractions().items())[:3])
    return f'{stem}_overlay.png: {top}'
