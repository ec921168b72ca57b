"""Commands for weights and methods."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from clipdense.methods import Method, get_method, list_methods
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import check_output_folder

from .early import check_choice, check_weights
from .options import Activation, AsJson, Override, Overwrite, weight_overrides
from .output import print_json

_OF_METHODS = [f'{layout} ({method.name})' for method in list_methods() for layout in method.export]
_LAYOUTS = ', '.join(['clipdense, openclip, huggingface (CLIP)', *_OF_METHODS])


def models(
    pattern: Annotated[str, typer.Argument(help='Part of a name, or a glob pattern: "*/openai".')] = '',
    as_json: AsJson = False,
) -> None:
    """List named weights (model, training data, image size, activation, license) and methods.

    Example: `clipdense models ViT-B-16`
    """
    from clipdense.clip.listing import model_table

    rows = model_table(pattern)
    known = [method for method in list_methods() if pattern.lower() in method.name.lower()]
    if not rows and not known:
        raise InputError(_no_match(pattern))
    if as_json:
        print_json({'weights': rows, 'methods': [_facts(method) for method in known]})
        return
    for row in rows:
        print(
            f'{row["name"]:52} {row["image_size"]:>4} px  {row["activation"] or "own":10}  {row["license"]}'
        )
    if rows:
        print(f'{len(rows)} weights; load one with --weights NAME, or a local file of the same format')
    for method in known:
        print(_line(method))


def configs(
    pattern: Annotated[str, typer.Argument(help='Part of a name, or a glob pattern: "lseg/*scenes*".')] = '',
    as_json: AsJson = False,
) -> None:
    """List the included training configs with what they cost and reach; one that is named is shown whole.

    Example: `clipdense configs lseg`
    """
    from clipdense.config.recipes import list_recipes

    found = list_recipes(pattern)
    if as_json:
        print_json([asdict(recipe) for recipe in found])
        return
    if len(found) == 1:
        print(f'{found[0].name}: {found[0].text}')
        return
    for recipe in found:
        print(f'{recipe.name:44} {recipe.summary}')
        for label, text in (('cost', recipe.cost), ('score', recipe.score)):
            if text:
                print(f'    {label}: {text}')
    print(f'{len(found)} configs; `clipdense configs NAME` shows one whole, `clipdense train NAME` runs it')


def methods(
    name: Annotated[str | None, typer.Argument(help='Show one method with its options.')] = None,
    task: Annotated[
        str | None, typer.Option(help='Only methods of a task: segmentation, detection, pre-training, ...')
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods: task, summary and training data; with NAME also options and file layouts.

    Example: `clipdense methods naclip`
    """
    if name is None:
        found = list_methods(task)
        if not found:
            able = ', '.join(sorted({method.task for method in list_methods()}))
            raise InputError(f'no method for the task {task!r}; tasks that have methods: {able}')
        if as_json:
            print_json([_facts(method) for method in found])
            return
        for method in found:
            print(_line(method))
        return
    method = get_method(name, task)
    if as_json:
        print_json(_facts(method))
        return
    print(f'{method.name} ({method.task}): {method.summary}')
    for label, value in (
        ('paper', method.paper),
        ('trained on', method.learns_from),
        ('reads', method.layout),
    ):
        if value:
            print(f'  {label}: {value}')
    if method.export:
        print(f'  writes: {", ".join(method.export)}')
    for option in method.options:
        print(f'  -o {option.name}={option.default}  {option.help}')


def convert(
    source: Annotated[str, typer.Argument(help='A file, a folder, or a name from `clipdense models`.')],
    destination: Annotated[Path, typer.Argument(help='Output file; a folder for huggingface.')],
    to: Annotated[str, typer.Option(help=f'Output layout: {_LAYOUTS}.')] = 'clipdense',
    activation: Activation = None,
    num_heads: Annotated[
        int | None,
        typer.Option(min=1, help='Attention heads of both towers, for open_clip files of unpublished sizes.'),
    ] = None,
    override: Override = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert weights between layouts, without loss.

    Example: `clipdense convert ViT-B-16.pt vit_b_16_hf --to huggingface`
    """
    exports = [layout for method in list_methods() for layout in method.export]  # also of added packages
    check_choice(to, dict.fromkeys(['clipdense', 'openclip', 'huggingface', *exports]), '--to')
    check_weights(source)
    check_output_folder(destination.parent)
    overrides = weight_overrides(activation, override)
    if num_heads is not None:
        overrides |= {'num_heads': num_heads, 'text_num_heads': num_heads}
    from clipdense.inference.convert import convert as convert_weights

    convert_weights(source, destination, to, overwrite=overwrite, **overrides)
    print(f'{destination}: written in the {to} layout')


def _no_match(pattern: str) -> str:
    from clipdense.clip.listing import list_models

    names = list_models()
    known = [
        *names,
        *{name.split('/')[0]: None for name in names},
        *(method.name for method in list_methods()),
    ]
    return (
        f'no weights or method match {pattern!r}; give a part of a name or a glob pattern, or nothing for '
        f'the whole list.{nearest(pattern, known)}'
    )


def _line(method: Method) -> str:
    trained = f'trained on {method.learns_from}' if method.learns_from else 'training-free'
    return f'{method.name:22} {method.task:14} {method.summary} ({trained})'


def _facts(method: Method) -> dict[str, Any]:
    return {
        'name': method.name,
        'task': method.task,
        'summary': method.summary,
        'learns_from': method.learns_from,
        'paper': method.paper,
        'options': {option.name: option.default for option in method.options},
        'export': list(method.export),
    }
