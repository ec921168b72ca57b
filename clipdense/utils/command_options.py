"""Options of commands that methods' own commands have too: one name, one meaning, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Classes = Annotated[
    str | None, typer.Option('--classes', '-c', help="Comma-separated class names: 'car, road, tree'.")
]
VocabFile = Annotated[
    Path | None,
    typer.Option(
        '--vocab',
        help='File of classes: text with one a line (name, synonym, ...), YAML, JSON, or `clipdense embed`.',
    ),
]
Weights = Annotated[
    str, typer.Option('--weights', '-w', help='A name from `clipdense models`, or a file or folder.')
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        help="A setting that the weights do not record, NAME=VALUE: 'eos_token_id=49407', 'preprocess=half'. "
        'May be repeated.'
    ),
]
Device = Annotated[
    str | None, typer.Option(help='cpu, cuda, cuda:1, ... [default: the GPU if there is one].')
]
SafeConfig = Annotated[
    bool,
    typer.Option(
        '--safe-config',
        help='Refuse a .py config, which is code; YAML, JSON and included configs are read.',
    ),
]
JobPart = Annotated[
    str | None,
    typer.Option(
        '--part',
        metavar='I/N',
        help='Do the I-th of N parts only; run the others anywhere that sees the folder.',
    ),
]
MaxBadFraction = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help='Fraction of damaged samples or shards above which the command stops.'
    ),
]
Overwrite = Annotated[bool, typer.Option('--overwrite', help='Replace existing output files.')]
ConfigOptions = Annotated[
    list[str] | None,
    typer.Option(
        '--option', '-o', help="Override a config setting: 'train_cfg.max_steps=100'. May be repeated."
    ),
]
