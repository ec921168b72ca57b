"""Options that several commands share, and how they are read.

A group of options is a dataclass; ``grouped`` lets a command take it as one argument, while the command line
shows its fields as options.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from clipdense.utils.errors import InputError

if TYPE_CHECKING:
    from clipdense.tasks.options import SegmentationOptions
    from clipdense.vocab.vocabulary import Vocabulary

DEFAULT_WEIGHTS = 'ViT-B-16/openai'

Images = Annotated[list[str], typer.Argument(help='Images, folders or glob patterns.', show_default=False)]
Classes = Annotated[
    str | None, typer.Option('--classes', '-c', help="Names, separated by commas: 'car, road, tree'.")
]
VocabFile = Annotated[
    Path | None,
    typer.Option('--vocab', help='File with one class a line (name, synonym, ...), or a .json vocabulary.'),
]
NamedVocab = Annotated[
    str | None,
    typer.Option('--class-list', help='A published class list: voc21, coco, camvid, ade20k, imagenet, ...'),
]
Weights = Annotated[
    str, typer.Option('--weights', '-w', help='A name from `clipdense models`, or a file in any CLIP format.')
]
Activation = Annotated[
    str | None,
    typer.Option(
        help='quick_gelu or gelu, where a file does not tell (open_clip files without their config).'
    ),
]
Templates = Annotated[
    str,
    typer.Option(
        help='Prompt templates: imagenet (80), imagenet_scene (85), openai7, vild (63), simple, name.'
    ),
]
Device = Annotated[
    str | None, typer.Option(help='cpu, cuda, cuda:1, ... (default: a GPU where there is one).')
]
Options = Annotated[
    list[str] | None, typer.Option('--option', '-o', help="Set NAME=VALUE: 'std=3.0'. May be repeated.")
]
EmbedderFile = Annotated[
    Path | None,
    typer.Option(help='File of class embeddings or learned prompts, in place of prompt templates.'),
]
Overwrite = Annotated[bool, typer.Option('--overwrite', help='Replace results that are there already.')]
Cache = Annotated[bool, typer.Option('--cache/--no-cache', help='Keep class embeddings on disk.')]


@dataclass(frozen=True)
class VocabularyArguments:
    """Which classes; exactly one of the three is given."""

    classes: Classes = None
    vocab: VocabFile = None
    class_list: NamedVocab = None

    def read(self) -> Vocabulary:
        """The vocabulary.

        Raises:
            InputError: none of the three, or more than one.
        """
        return read_vocabulary(self.classes, self.vocab, self.class_list)


@dataclass(frozen=True)
class WeightsArguments:
    """Which weights, and how they are loaded."""

    weights: Weights = DEFAULT_WEIGHTS
    activation: Activation = None
    device: Device = None
    cache: Cache = True
    embedder: EmbedderFile = None

    def overrides(self) -> dict[str, Any]:
        """Keyword arguments of ``clipdense.load`` that were given."""
        return weight_overrides(self.activation)


@dataclass(frozen=True)
class ViewArguments:
    """``SegmentationOptions`` on the command line."""

    background_threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help='Probability below which a pixel is background.')
    ] = None
    area_threshold: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help='Drop classes that cover at most this share of the foreground.'),
    ] = None
    refine: Annotated[
        bool | None, typer.Option('--refine/--no-refine', help='Align masks with edges (PAMR).')
    ] = None
    short_side: Annotated[int | None, typer.Option(min=1, help='Resize the shorter side to this first.')] = (
        None
    )
    window: Annotated[
        int | None, typer.Option(min=0, help='Side of the sliding windows; 0 for the whole image.')
    ] = None
    scales: Annotated[str | None, typer.Option(help="Sizes to average over: '0.75, 1, 1.25'.")] = None
    flip: Annotated[
        bool | None, typer.Option('--flip/--no-flip', help='Average over the mirrored image too.')
    ] = None

    def options(self) -> SegmentationOptions:
        """What was given; the rest is the model's own.

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
    """Where results go."""

    out: Annotated[Path, typer.Option('--out', help='Folder for the results.')] = Path('segmented')
    overwrite: Overwrite = False
    opacity: Annotated[float, typer.Option(min=0.0, max=1.0, help='Of the colors in the overlay.')] = 0.6


def parse_scales(text: str) -> tuple[float, ...]:
    """``'0.75, 1'`` -> (0.75, 1.0).

    Raises:
        InputError: something else than positive numbers.
    """
    try:
        scales = tuple(float(part) for part in text.split(','))
    except ValueError:
        scales = ()
    if not scales or not all(0 < scale < inf for scale in scales):
        raise InputError(f"--scales takes positive numbers, such as '0.75, 1, 1.25', not {text!r}")
    return scales


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups of options: each field of a dataclass argument becomes an option."""
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
    """The vocabulary that was asked for in one of three ways.

    Raises:
        InputError: none of them, or more than one.
    """
    from clipdense.vocab.class_names import named_vocabulary
    from clipdense.vocab.vocabulary import Vocabulary

    given = [value for value in (classes, file, preset) if value is not None]
    if len(given) > 1:
        raise InputError('--classes, --vocab and --class-list exclude each other: keep one')
    if not given:
        raise InputError("no classes given: use one of --classes 'a, b', --vocab FILE or --class-list NAME")
    if classes is not None:
        return Vocabulary.parse(classes)
    if file is not None:
        return Vocabulary.from_file(file)
    assert preset is not None
    return named_vocabulary(preset)


def refuse_existing(paths: list[Path], overwrite: bool) -> None:
    """Nothing already written is lost unless the user says so.

    Raises:
        InputError: naming the first file that is there.
    """
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        more = f' and {len(there) - 1} more are' if len(there) > 1 else ' is'
        raise InputError(f'{there[0]}{more} there already: choose another --out, or add --overwrite')


def weight_overrides(activation: str | None) -> dict[str, Any]:
    """Keyword arguments of ``clipdense.load`` that were really given."""
    return {} if activation is None else {'activation': activation}
