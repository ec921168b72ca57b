"""Convert weights from one layout to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipdense.clip import self_describing
from clipdense.clip.checkpoint import convert as convert_clip
from clipdense.clip.checkpoint import open_weights
from clipdense.methods import find_method, list_methods, method_packages
from clipdense.utils.errors import InputError, nearest

CLIP_LAYOUTS = ('clipdense', 'openclip', 'huggingface')


def layouts() -> dict[str, list[str]]:
    """Each layout that can be written, and the models that it supports: 'clip' or names of methods."""
    found: dict[str, list[str]] = {name: ['clip'] for name in CLIP_LAYOUTS}
    for method in list_methods():
        for name in method.export:
            found.setdefault(name, []).append(method.name)
    return found


def convert(
    source: str | Path,
    destination: str | Path,
    to: str = 'clipdense',
    *,
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Write weights in another layout; the tensors are unchanged.

    Args:
        source: weights as ``load`` takes them, of a CLIP or of a method that supports ``export``.
        destination: a ``.safetensors`` file; a folder for 'huggingface'.
        to: one of ``layouts()``.
        overwrite: replace an existing destination.
        overrides: settings that the source does not record, as in ``load``.

    Returns:
        The file that was written.

    Raises:
        InputError: a layout that does not support the model, or a destination that exists.
        CheckpointError: as ``load``.
    """
    if to not in layouts():
        raise InputError(f'unknown layout {to!r}; one of {", ".join(layouts())}.{nearest(to, layouts())}')
    opened = open_weights(source)
    file = opened.file
    if self_describing.read_config(file, method_packages()):
        raise InputError(
            f'{source} is a self-describing file and cannot be converted: no other layout supports its model'
        )
    method = find_method(file.tensors)
    able = CLIP_LAYOUTS if method is None else tuple(method.export)
    if to not in able:
        what = 'a CLIP' if method is None else f'a {method.name} model'
        hint = f'use one of {", ".join(able)}' if able else 'it has no other layout'
        raise InputError(f'{source} is {what}, which the layout {to!r} does not support: {hint}')
    if method is None:
        return convert_clip(opened, destination, to, overwrite=overwrite, **overrides)  # type: ignore[arg-type]
    target = check_destination(destination, to == 'huggingface', overwrite)
    model = method.load_file(file, overrides)
    method.part(to, 'export')(model, Path(destination))
    return target


def check_destination(destination: str | Path, folder: bool, overwrite: bool) -> Path:
    """The file that will be written.

    Raises:
        InputError: the destination is not a ``.safetensors`` file, or exists.
    """
    destination = Path(destination)
    if not folder and destination.suffix != '.safetensors':
        raise InputError(f'the destination must end in .safetensors, got {destination}')
    target = destination / 'model.safetensors' if folder else destination
    if target.exists() and not overwrite:
        raise InputError(f'{target} exists: choose another destination, or add --overwrite')
    return target
