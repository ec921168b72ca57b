"""``clipdense vocab``: show, validate and convert files of class names."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.errors import printable
from clipdense.utils.files import check_outputs

from .once import Command
from .options import AsJson, Overwrite
from .output import print_json

if TYPE_CHECKING:
    from clipdense.vocab.vocabulary import Vocabulary

app = typer.Typer(
    name='vocab',
    help='Show, validate and convert files of class names, as `--vocab` reads them.',
    no_args_is_help=True,
    rich_markup_mode='markdown',
)
File = Annotated[Path, typer.Argument(help='File of classes: text, YAML, JSON, or class embeddings.')]


@app.command(cls=Command)
def show(file: File, as_json: AsJson = False) -> None:
    """Print the classes with their numbers, names and thresholds, as `--vocab` reads them.

    Example: `clipdense vocab show street.yaml`
    """
    vocabulary = _read(file)
    if as_json:
        print_json(vocabulary.to_dict())
        return
    for index, name in enumerate(vocabulary.class_names):
        print(f'{index:5}  {printable(_described(vocabulary, name))}')
    for name in vocabulary.negatives:
        print(f'    -  {printable(name)} (negative)')
    if vocabulary.templates is not None:
        given = vocabulary.templates
        print(f'templates: {given if isinstance(given, str) else "; ".join(given)}')
    print(_summary(vocabulary))


@app.command(cls=Command)
def validate(file: File) -> None:
    """Check a file: exit status 0 if it is fine, 1 with doubts about it, 2 if it cannot be read.

    Example: `clipdense vocab validate street.yaml`
    """
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter('always')
        vocabulary = _read(file)
    for doubt in doubts:
        typer.echo(f'clipdense: warning: {doubt.message}', err=True)
    print(f'{file}: {_summary(vocabulary)}')
    if doubts:
        raise typer.Exit(1)


@app.command(cls=Command)
def convert(
    file: File,
    out: Annotated[Path, typer.Argument(help='The .yaml or .json file to write.')],
    overwrite: Overwrite = False,
) -> None:
    """Write the classes of a file as YAML or JSON.

    Example: `clipdense vocab convert classes.txt street.yaml`
    """
    vocabulary = _read(file)
    check_outputs([out], overwrite, [file])
    vocabulary.save(out)
    print(f'{out}: {_summary(vocabulary)}')


def _read(file: Path) -> Vocabulary:
    from clipdense.vocab.vocabulary import Vocabulary

    return Vocabulary.from_file(file)


def _described(vocabulary: Vocabulary, name: str) -> str:
    words = vocabulary.synonyms.get(name, ())
    shown = len(vocabulary.examples.get(name, ()))
    notes = [
        *([f'given by {shown} example{"s"[: shown > 1]}'] if shown else []),
        *(['background'] if name == vocabulary.background else []),
        *(['novel'] if name in vocabulary.novel else []),
        *([f'threshold {vocabulary.thresholds[name]:g}'] if name in vocabulary.thresholds else []),
    ]
    return ', '.join([name, *words]) + (f' ({", ".join(notes)})' if notes else '')


def _summary(vocabulary: Vocabulary) -> str:
    shown = len(vocabulary.examples)
    classes, names = len(vocabulary), len(vocabulary.names_only.queries) - shown
    count = '1 class' if classes == 1 else f'{classes} classes'
    negatives = f', {len(vocabulary.negatives)} negatives' if vocabulary.negatives else ''
    examples = f', {shown} given by examples' if shown else ''
    return f'{count}, asked by {names} names{examples}{negatives}'
