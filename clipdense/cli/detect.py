"""Commands of open-vocabulary detection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.device_names import check_precision
from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import check_outputs

from .early import check_device, check_files, check_method, check_templates, check_weights
from .images import Failures
from .options import (
    AdapterFile,
    BatchSize,
    Cache,
    ConfigArguments,
    Device,
    EmbedderFile,
    ImageArguments,
    Options,
    Overwrite,
    Precision,
    ScoreThreshold,
    Templates,
    VocabularyArguments,
    Weights,
    grouped,
    tell_precision,
)
from .saving import SaveArguments, finished

if TYPE_CHECKING:
    from clipdense.inference.detector import Detector
    from clipdense.tasks.detection import DetectionRules
    from clipdense.vocab.vocabulary import Vocabulary

TextClip = Annotated[
    str | None,
    typer.Option(help='CLIP that embeds class names, instead of the text tower of the weights.'),
]


@dataclass(frozen=True)
class DetectorArguments:
    """The detector, and how it is loaded."""

    weights: Weights
    method: Annotated[str | None, typer.Option(help='Detection method for plain CLIP weights.')] = None
    option: Options = None
    clip: TextClip = None
    templates: Templates = None
    device: Device = None
    cache: Cache = True
    embedder: EmbedderFile = None
    adapter: AdapterFile = None
    precision: Precision = 'auto'

    def inputs(self) -> list[str | Path | None]:
        """The files that are read."""
        return [self.weights, self.embedder, self.adapter, self.clip]

    def check(self) -> None:
        """Check names and paths before anything heavy is imported.

        Raises:
            InputError: of the first mistake.
        """
        check_weights(self.weights)
        check_weights(self.clip)
        check_device(self.device)
        check_precision(self.precision)
        check_files(self.embedder, self.adapter)
        check_templates(self.templates)
        check_method(self.method, 'detection', self.option, any_clip=None)

    def load(self, config: ConfigArguments) -> Detector:
        """The detector, built by its config if one is given."""
        from clipdense.config import parse_options
        from clipdense.inference.detector import Detector

        common: dict[str, Any] = {
            name: getattr(self, name)
            for name in ('clip', 'templates', 'device', 'precision', 'cache', 'embedder', 'adapter')
        }
        cfg = config.read()
        if cfg is None:
            options = parse_options(self.option or [])
            return Detector.from_pretrained(self.weights, self.method, method_options=options, **common)
        if self.method or self.option:
            raise InputError(
                '--method and -o cannot be combined with --config, which specifies the method: remove them'
            )
        return Detector.from_config(cfg, self.weights, **common)


@dataclass(frozen=True)
class PhraseArguments(VocabularyArguments):
    """The classes, or a sentence with its phrases."""

    text: Annotated[
        str | None,
        typer.Option(
            help='A sentence whose phrases are detected: those of --classes, by default its noun phrases.'
        ),
    ] = None

    def read(self, templates: str | None = None) -> Vocabulary:
        """The vocabulary; with ``--text`` a ``Sentence``.

        Raises:
            InputError: as ``VocabularyArguments.read``, or a phrase that is not in the sentence.
        """
        if self.text is None:
            return super().read(templates)
        from clipdense.vocab.sentences import Sentence
        from clipdense.vocab.vocabulary import Vocabulary

        for name, given in (('--vocab', self.vocab), ('--class-list', self.class_list)):
            if given is not None:
                raise InputError(
                    f'--text has its phrases from --classes, or all its noun phrases: remove {name}'
                )
        phrases = None if self.classes is None else Vocabulary.parse(self.classes).class_names
        found = Sentence.of(self.text, phrases)
        if phrases is None:
            print(f'phrases of the text: {", ".join(map(printable, found.class_names))}')
        return found


@dataclass(frozen=True)
class RulesArguments:
    """``DetectionRules`` on the command line."""

    score_threshold: Annotated[float, ScoreThreshold] = 0.3
    class_threshold: Annotated[
        list[str] | None,
        typer.Option(help="Score threshold of one class: 'cat=0.5'. May be repeated."),
    ] = None
    iou_threshold: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help='IoU threshold of non-maximum suppression.'),
    ] = 0.5
    class_agnostic: Annotated[
        bool, typer.Option('--class-agnostic', help='Non-maximum suppression across classes.')
    ] = False
    max_detections: Annotated[int, typer.Option(min=1, help='Maximum number of detections per image.')] = 100

    def rules(self, vocabulary: Vocabulary) -> DetectionRules:
        """The detection rules.

        Raises:
            InputError: a threshold of a class that is not in the vocabulary, or out of range.
        """
        from clipdense.tasks.detection import DetectionRules

        return DetectionRules(
            self.score_threshold,
            class_thresholds(self.class_threshold or [], vocabulary),
            self.iou_threshold,
            self.class_agnostic,
            self.max_detections,
        )


@grouped
def detect(
    images: ImageArguments,
    detector: DetectorArguments,
    config: ConfigArguments,
    vocabulary: PhraseArguments,
    rules: RulesArguments,
    dataset: SaveArguments,
    out: Annotated[Path, typer.Option('--out', help='Output folder.')] = Path('detected'),
    batch_size: BatchSize = 'auto',
    overwrite: Overwrite = False,
) -> None:
    """Detect classes by name. Writes an overlay for each image and one COCO results file.

    The weights are an exported detector, a training checkpoint, or DetPro's.

    Example: `clipdense detect photos/ --classes 'cat, dog' --weights vild.safetensors`
    """
    from clipdense.utils.image_files import output_stems

    paths = images.paths()
    classes = vocabulary.read(detector.templates)
    class_thresholds(rules.class_threshold or [], classes)
    for given in (config, detector, dataset):
        given.check()
    stems = [out / stem for stem in output_stems(paths)]
    boxes_file, names_file = out / 'detections.json', out / 'names.json'
    drawn = [Path(f'{stem}_boxes.png') for stem in stems]
    read = [*paths, vocabulary.vocab, *classes.example_files, *detector.inputs(), config.config]
    check_outputs([*drawn, boxes_file, names_file], overwrite, read)
    writers = dataset.writers(out, paths, classes, overwrite)
    from clipdense.inference.results import write_image, write_json

    wanted = rules.rules(classes)
    rows: list[dict] = []
    failures = Failures(paths)
    model = detector.load(config)
    tell_precision(model.precision)
    found = model.stream(
        paths,
        classes,
        batch_size=batch_size,
        on_error=failures.add,
        max_pixels=images.max_pixels,
        rules=wanted,
    )
    with finished(writers):
        for index, result in found:
            for writer in writers:
                writer.check(result)
            with failures.of(index):
                write_image(f'{stems[index]}_boxes.png', result.draw())
                for writer in writers:
                    writer.add(index, result)
                rows += result.to_coco(index + 1)
                print(f'{stems[index]}_boxes.png: {result.summary()}')
    failures.check_any_left()
    names = [{'id': number, 'name': name} for number, name in enumerate(classes.class_names, 1)]
    files = [{'id': number, 'file_name': str(path)} for number, path in enumerate(paths, 1)]
    write_json(boxes_file, rows)
    about = {'precision': model.precision}
    write_json(names_file, {'info': about, 'images': files, 'categories': names})
    failures.exit(out)


def class_thresholds(texts: list[str], vocabulary: Vocabulary) -> dict[str | int, float]:
    """``['cat=0.5']`` -> score thresholds by class index.

    Raises:
        InputError: a text of another form, or a class that the vocabulary does not have.
    """
    found: dict[str | int, float] = {}
    for text in texts:
        name, _, value = text.rpartition('=')
        try:
            threshold = float(value)
        except ValueError:
            threshold = -1.0
        if not name or not 0 <= threshold <= 1:
            raise InputError(
                '--class-threshold must be NAME=SCORE, such as cat=0.5, with a score from 0 to 1, '
                f'got {text!r}'
            )
        index = vocabulary.index(name.strip())
        if found.setdefault(index, threshold) != threshold:
            raise InputError(f'--class-threshold gives class {name.strip()!r} two thresholds')
    return found
