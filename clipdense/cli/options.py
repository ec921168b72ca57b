"""Options that several commands share.

A group of options is a dataclass.  With ``grouped`` a command takes it as one argument, and its fields become
options on the command line.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from clipdense.methods import list_methods
from clipdense.utils.command_options import (
    Classes,
    Device,
    Override,
    Overwrite,
    SafeConfig,
    VocabFile,
    Weights,
)
from clipdense.utils.device_names import check_precision
from clipdense.utils.errors import InputError, refuse_unknown

from .early import check_config, check_device, check_files, check_weights

if TYPE_CHECKING:
    from mmengine.config import Config

    from clipdense.tasks.options import SegmentationOptions
    from clipdense.vocab.vocabulary import Vocabulary

MAX_PIXELS = 178_956_970  # as in ``utils.image_open``, which takes longer to import
DEFAULT_WEIGHTS = 'ViT-B-16/openai'

Images = Annotated[list[str], typer.Argument(help='Images, folders or glob patterns.', show_default=False)]
NamedVocab = Annotated[
    str | None,
    typer.Option('--class-list', help='A published class list: voc21, coco, camvid, ade20k, imagenet, ...'),
]
Activation = Annotated[
    str | None,
    typer.Option(
        help='quick_gelu or gelu, for files that do not specify it (open_clip files without their config).'
    ),
]
Templates = Annotated[
    str | None,
    typer.Option(
        help='Prompt templates: imagenet (80), imagenet_scene (85), openai7, vild (63), simple, name '
        "[default: the model's]."
    ),
]
Background = Annotated[
    str | None, typer.Option(help='Name of the background class; added as the first class if it is new.')
]
_DENSE = ', '.join(method.name for method in list_methods('segmentation', any_clip=True))
DenseMethod = Annotated[
    str | None, typer.Option(help=f'Training-free method for plain CLIP weights: {_DENSE}.')
]
ScoreThreshold = typer.Option(
    min=0.0,
    max=1.0,
    help='Minimum score of an object [default: 0.3 for detectors, 0 for segmenters].',
    show_default=False,
)
Top = Annotated[int, typer.Option(min=1, help='How many to print, best first.')]
Precision = Annotated[
    str,
    typer.Option(help='fp32, bf16, or auto: bf16 where the CPU or GPU has units for it, fp32 elsewhere.'),
]
Options = Annotated[
    list[str] | None,
    typer.Option('--option', '-o', help="Set an option, NAME=VALUE: 'std=3.0'. May be repeated."),
]
EmbedderFile = Annotated[
    Path | None,
    typer.Option(
        '--prompts',
        '--embedder',
        help='File of learned prompts or class embeddings, instead of prompt templates.',
    ),
]
AdapterFile = Annotated[
    Path | None,
    typer.Option(help='File of an adapter (CLIP-Adapter, Tip-Adapter) that belongs to the weights.'),
]
MaxPixels = Annotated[
    int, typer.Option('--max-pixels', min=1, help='Refuse images with more pixels, before decoding.')
]
Captions = Annotated[
    str,
    typer.Option(
        help="Captions in the shards: txt, json:FIELD for a field of the member .json, or several: 'txt, "
        "synthetic.json:caption'."
    ),
]
OutputFolder = Annotated[Path, typer.Option('--out', help='Output folder.')]
AsJson = Annotated[bool, typer.Option('--json', help='Print JSON, for programs.')]


def caption_sources(text: str) -> list[str]:
    """``--captions`` as ``data.image_text`` takes them."""
    return [part.strip() for part in text.split(',')]


def batch_size_of(text: str) -> int | str:
    """A batch size of the command line.

    Raises:
        typer.BadParameter: not a whole number of at least 1, nor 'auto'.
    """
    if text == 'auto' or (text.isdecimal() and int(text) > 0):
        return text if text == 'auto' else int(text)
    raise typer.BadParameter(f"{text!r} is not a whole number of at least 1, nor 'auto'")


BatchSize = Annotated[
    Any,  # int or 'auto'
    typer.Option(
        parser=batch_size_of, metavar='N|auto', help='Images per batch; auto is 1 on a CPU and 8 on a GPU.'
    ),
]
TextBatchSize = Annotated[
    Any,  # of models that write texts
    typer.Option(
        parser=batch_size_of, metavar='N|auto', help='Images per batch; auto is 4 on a CPU and 16 on a GPU.'
    ),
]
Cache = Annotated[bool, typer.Option('--cache/--no-cache', help='Cache class embeddings on disk.')]


@dataclass(frozen=True)
class ImageArguments:
    """The images, and the limit of their size."""

    images: Images
    max_pixels: MaxPixels = MAX_PIXELS

    def paths(self) -> list[Path]:
        """The image files.

        Raises:
            InputError: a source does not exist or contains no images.
        """
        from clipdense.utils.image_files import list_images

        return list_images(self.images)


@dataclass(frozen=True)
class VocabularyArguments:
    """The classes, given by exactly one of three options."""

    classes: Classes = None
    vocab: VocabFile = None
    class_list: NamedVocab = None

    def read(self, templates: str | None = None) -> Vocabulary:
        """The vocabulary.

        Args:
            templates: those of ``--templates``.

        Raises:
            InputError: none of the options, or more than one; templates here and in the file.
        """
        found = read_vocabulary(self.classes, self.vocab, self.class_list)
        if templates is not None and found.templates is not None:
            raise InputError(f'{self.vocab} has templates of its own: remove these or --templates')
        return found


@dataclass(frozen=True)
class WeightsArguments:
    """The weights, and how they are loaded."""

    weights: Weights = DEFAULT_WEIGHTS
    activation: Activation = None
    override: Override = None
    device: Device = None
    cache: Cache = True
    embedder: EmbedderFile = None

    def check(self) -> None:
        """Check names and paths before anything heavy is imported.

        Raises:
            InputError: of the first mistake.
        """
        check_weights(self.weights)
        check_device(self.device)
        check_files(self.embedder)
        weight_overrides(self.activation, self.override)

    def overrides(self) -> dict[str, Any]:
        """The keyword arguments of ``clipdense.load`` that were given."""
        return weight_overrides(self.activation, self.override)


@dataclass(frozen=True)
class InferenceArguments(WeightsArguments):
    """Weights, what adapts their embeddings and class scores, and what they compute in."""

    adapter: AdapterFile = None
    precision: Precision = 'auto'

    def check(self) -> None:
        """As ``WeightsArguments.check``."""
        super().check()
        check_files(self.adapter)
        check_precision(self.precision)

    def inputs(self) -> list[str | Path | None]:
        """The files that are read."""
        return [self.weights, self.embedder, self.adapter]


@dataclass(frozen=True)
class ConfigArguments:
    """The training config of weights that do not describe their model."""

    config: Annotated[
        str | None, typer.Option(help='Training config, for weights that are not self-describing.')
    ] = None
    safe_config: SafeConfig = False

    def check(self) -> None:
        """Check that there is such a config, before anything heavy is imported.

        Raises:
            InputError: there is none, or it is a ``.py`` config with ``--safe-config``.
        """
        check_config(self.config, self.safe_config)

    def read(self) -> Config | None:
        """The config, or None where none was given.

        Raises:
            InputError: no such config, or a ``.py`` config with ``--safe-config``.
        """
        from clipdense.config import load_config

        return None if self.config is None else load_config(self.config, safe=self.safe_config)


@dataclass(frozen=True)
class ViewArguments:
    """``SegmentationOptions`` on the command line."""

    background_threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help='Pixels of lower probability become background.')
    ] = None
    area_threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help='Drop classes that cover no more than this part of the foreground.'
        ),
    ] = None
    refine: Annotated[
        bool | None, typer.Option('--refine/--no-refine', help='Align masks with image edges (PAMR).')
    ] = None
    short_side: Annotated[
        int | None,
        typer.Option(min=0, help='Resize the shorter side to this size; 0: do not resize.'),
    ] = None
    window: Annotated[
        int | None, typer.Option(min=0, help='Side of the sliding window in pixels; 0: the whole image.')
    ] = None
    scales: Annotated[str | None, typer.Option(help="Image scales to average over: '0.75, 1, 1.25'.")] = None
    flip: Annotated[
        bool | None,
        typer.Option('--flip/--no-flip', help='Average with the result of the flipped image.'),
    ] = None

    def options(self) -> SegmentationOptions:
        """The options that were given; the model's own apply to the rest.

        Raises:
            InputError: scales that are not positive numbers.
        """
        from clipdense.tasks.options import SegmentationOptions

        scales = None if self.scales is None else parse_scales(self.scales)
        return SegmentationOptions(
            short_side=self.short_side,
            window=self.window,
            scales=scales,
            flip=self.flip,
            background_threshold=self.background_threshold,
            area_threshold=self.area_threshold,
            refine=self.refine,
        )


@dataclass(frozen=True)
class OutputArguments:
    """Where results are written."""

    out: OutputFolder = Path('segmented')
    overwrite: Overwrite = False
    opacity: Annotated[float, typer.Option(min=0.0, max=1.0, help='Opacity of the overlay.')] = 0.6


def tell_precision(precision: str) -> None:
    """Print what a model computes in, if it is not the usual fp32."""
    if precision != 'fp32':
        typer.echo(f'clipdense: computing in {precision}; --precision fp32 for full precision', err=True)


def parse_scales(text: str) -> tuple[float, ...]:
    """``'0.75, 1'`` -> (0.75, 1.0).

    Raises:
        InputError: not a list of positive numbers.
    """
    try:
        scales = tuple(float(part) for part in text.split(','))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale < inf for scale in scales):
        raise InputError(f"--scales must be positive numbers, such as '0.75, 1, 1.25', got {text!r}")
    return scales


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Decorate a command that takes groups of options: fields of dataclass arguments become options."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters, members = [], {}
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
            continue
        types = get_type_hints(groups[name], include_extras=True)
        members[name] = [one.name for one in fields(groups[name])]
        parameters += [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if one.default is MISSING else one.default,
                annotation=types[one.name],
            )
            for one in fields(groups[name])
        ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, own in members.items():
            given[name] = groups[name](**{one: given.pop(one) for one in own})
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def read_vocabulary(classes: str | None, file: Path | None, preset: str | None) -> Vocabulary:
    """The vocabulary from one of three sources.

    Raises:
        InputError: no source, or more than one.
    """
    from clipdense.vocab.class_names import VOCABULARY_NAMES, named_vocabulary
    from clipdense.vocab.vocabulary import Vocabulary

    given = [value for value in (classes, file, preset) if value is not None]
    if len(given) > 1:
        raise InputError('--classes, --vocab and --class-list cannot be combined: use only one of them')
    if not given:
        raise InputError("no classes given: use one of --classes 'a, b', --vocab FILE or --class-list NAME")
    if classes is not None:
        if _names_a_file(classes):
            raise InputError(f'--classes takes class names, not a file: use --vocab {classes.strip()}')
        if classes.strip() in VOCABULARY_NAMES:
            warnings.warn(f'{classes!r} is read as one class name; for the class list use --class-list')
        return Vocabulary.parse(classes, strict=True)
    if file is not None:
        if not file.exists() and str(file) in VOCABULARY_NAMES:
            raise InputError(f'--vocab takes a file; for the class list use --class-list {file}')
        if not file.exists() and ',' in str(file):
            raise InputError(f"--vocab takes a file; for class names use --classes '{file}'")
        return Vocabulary.from_file(file)
    assert preset is not None
    if preset not in VOCABULARY_NAMES and _names_a_file(preset):
        raise InputError(f'--class-list takes the name of a published list; for a file use --vocab {preset}')
    return named_vocabulary(preset)


def _names_a_file(text: str) -> bool:
    """Whether a text is the path of a file, or looks like one."""
    from clipdense.vocab.class_files import CLASS_FILE_SUFFIXES

    path = Path(text.strip())
    try:
        return path.suffix.lower() in CLASS_FILE_SUFFIXES or path.is_file()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def weight_overrides(activation: str | None, override: list[str] | None) -> dict[str, Any]:
    """The keyword arguments of ``clipdense.load`` that were given.

    Raises:
        InputError: an override without ``=`` or of an unknown name, or the activation twice.
    """
    if not override:
        return {} if activation is None else {'activation': activation}
    from clipdense.clip.checkpoint import Overrides
    from clipdense.config import parse_options

    overrides = parse_options(override)
    known = [*(field.name for field in fields(Overrides)), 'image_size']  # the last of GroupViT
    refuse_unknown(overrides, known, 'weights have no override')
    if activation is None:
        return overrides
    if 'activation' in overrides:
        raise InputError('--activation and --override activation= are the same setting: remove one')
    return {**overrides, 'activation': activation}
