"""Options that several verbs share, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.errors import InputError

if TYPE_CHECKING:
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
    typer.Option('--preset', help='A named class list: voc21, coco, camvid, ade20k, imagenet, ...'),
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
    str, typer.Option(help='Prompt templates: imagenet (80), imagenet_scene (85), openai7, simple, name.')
]
Device = Annotated[
    str | None, typer.Option(help='cpu, cuda, cuda:1, ... (default: a GPU where there is one).')
]
Overwrite = Annotated[bool, typer.Option('--overwrite', help='Replace results that are there already.')]
Cache = Annotated[bool, typer.Option('--cache/--no-cache', help='Keep class embeddings on disk.')]


def read_vocabulary(classes: str | None, file: Path | None, preset: str | None) -> Vocabulary:
    """The vocabulary that was asked for in one of three ways.

    Raises:
        InputError: none of them, or more than one.
    """
    from clipdense.vocab.class_names import named_vocabulary
    from clipdense.vocab.vocabulary import Vocabulary

    given = [value for value in (classes, file, preset) if value is not None]
    if len(given) != 1:
        raise InputError("say which classes: one of --classes 'a, b', --vocab FILE or --preset NAME")
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
