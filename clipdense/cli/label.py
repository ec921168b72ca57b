"""``clipdense label``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.methods import list_methods
from clipdense.utils.errors import printable
from clipdense.utils.files import check_new_folder

from .early import check_choice, check_method
from .images import Failures
from .options import (
    Background,
    BatchSize,
    DenseMethod,
    ImageArguments,
    InferenceArguments,
    Options,
    Overwrite,
    ScoreThreshold,
    ViewArguments,
    VocabularyArguments,
    grouped,
    tell_precision,
)
from .saving import FORMATS, NAMES, MinArea
from .segment import refuse_without_effect, with_background

if TYPE_CHECKING:
    from clipdense.inference.detector import Detector
    from clipdense.inference.formats import LabeledImage
    from clipdense.inference.segmenter import Segmenter
    from clipdense.vocab.vocabulary import Vocabulary


@grouped
def label(
    images: ImageArguments,
    vocabulary: VocabularyArguments,
    weights: InferenceArguments,
    view: ViewArguments,
    to: Annotated[str, typer.Option('--to', help=f'Format: {NAMES}.')],
    out: Annotated[Path, typer.Option('--out', help='Folder of the data set.')] = Path('labels'),
    method: DenseMethod = None,
    option: Options = None,
    background: Background = None,
    score_threshold: Annotated[float | None, ScoreThreshold] = None,
    min_area: MinArea = 1,
    batch_size: BatchSize = 'auto',
    overwrite: Overwrite = False,
) -> None:
    """Label images by class names, and write one data set to train with or to correct by hand.

    Objects are the detections of a detector, or the connected regions of a segmenter's masks; the
    background is not labeled.

    Example: `clipdense label photos/ --classes 'car, person' --background background --to coco`
    """
    check_choice(to, FORMATS, '--to')
    paths = images.paths()
    classes = with_background(vocabulary.read(), background)
    weights.check()
    detects = method in {one.name for one in list_methods('detection')}
    check_method(method, 'detection' if detects else 'segmentation', option)
    check_new_folder(out, overwrite, [*paths, *(Path(one) for one in weights.inputs() if one)])
    from clipdense.inference.formats import DatasetWriter, LabelOptions

    options = LabelOptions(min_area, score_threshold or 0.0)
    writer = DatasetWriter(out, to, paths, classes, options)
    model, settings = _predictor(weights, method, option or [], view, classes, score_threshold)
    tell_precision(model.precision)
    failures = Failures(paths)
    found = model.stream(
        paths,
        classes,
        batch_size=batch_size,
        on_error=failures.add,
        max_pixels=images.max_pixels,
        **settings,
    )
    try:
        for index, result in found:
            writer.check(result)
            with failures.of(index):
                print(f'{printable(paths[index])}: {_described(writer.add(index, result), classes)}')
    finally:
        files = writer.finish() if writer.images else []
    failures.check_any_left()
    where = files[0] if files else out
    print(f'{where}: {writer.summary}')
    failures.exit(out)


def _predictor(
    weights: InferenceArguments,
    method: str | None,
    option: list[str],
    view: ViewArguments,
    classes: Vocabulary,
    score_threshold: float | None,
) -> tuple[Segmenter | Detector, dict[str, Any]]:
    """A detector or a segmenter, as the weights are, and the settings of its calls."""
    from clipdense.config import parse_options
    from clipdense.inference.load import load, method_of
    from clipdense.inference.segmenter import Segmenter

    common: dict[str, Any] = {
        name: getattr(weights, name) for name in ('device', 'precision', 'cache', 'embedder', 'adapter')
    }
    common['method_options'] = parse_options(option)
    model = load(weights.weights, weights.device, **weights.overrides())
    entry = method_of(model)
    named = any(method == one.name for one in list_methods('detection'))
    if named or (entry is not None and entry.task == 'detection'):
        from clipdense.inference.detector import Detector
        from clipdense.tasks.detection import DetectionRules

        threshold = 0.3 if score_threshold is None else score_threshold
        return Detector.from_pretrained(model, method, **common), {'rules': DetectionRules(threshold)}
    refuse_without_effect(classes.background, view)
    return Segmenter.from_pretrained(model, method, options=view.options(), **common), {}


def _described(image: LabeledImage, classes: Vocabulary) -> str:
    """``'2 car, 1 road'``."""
    counts = Counter(classes.class_names[one.label] for one in image.objects)
    return ', '.join(f'{count} {name}' for name, count in counts.most_common()) or 'nothing found'
