"""Verbs about weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Activation, Overwrite, weight_overrides


def models(
    pattern: Annotated[str, typer.Argument(help='Show names that contain this.')] = '',
    as_json: Annotated[bool, typer.Option('--json', help='Print JSON.')] = False,
) -> None:
    """List the named weights: model, training data, licence, size of images, activation.

    Example: `clipdense models ViT-B-16`
    """
    from clipdense.weights.zoo import list_models

    rows = [row for row in list_models() if pattern.lower() in row['name'].lower()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(f'{row["name"]:52} {row["image_size"]:>4} px  {row["activation"]:10}  {row["licence"]}')
    print(f'{len(rows)} weights; load one with --weights NAME, or a local file of the same format')


def convert(
    source: Annotated[str, typer.Argument(help='A file, a folder, or a name from `clipdense models`.')],
    destination: Annotated[Path, typer.Argument(help='File to write; a folder for huggingface.')],
    to: Annotated[
        Literal['clipdense', 'openclip', 'huggingface', 'nvlabs'],
        typer.Option(help='The layout to write; nvlabs for a GroupViT.'),
    ] = 'clipdense',
    activation: Activation = None,
    num_heads: Annotated[
        int | None, typer.Option(min=1, help='Of both towers, for open_clip files of an unpublished size.')
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert weights between layouts, without loss.

    Example: `clipdense convert ViT-B-16.pt vit_b_16_hf --to huggingface`
    """
    from clipdense.inference.convert import convert as convert_weights

    overrides = weight_overrides(activation)
    if num_heads is not None:
        overrides |= {'num_heads': num_heads, 'text_num_heads': num_heads}
    convert_weights(source, destination, to, overwrite=overwrite, **overrides)
    print(f'{destination}: written in the {to} layout')
