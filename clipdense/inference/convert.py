"""Convert weights of any model from one layout to another."""

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
    """Every layout that can be written, and of which models: 'clip' or the name of a method."""
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
    """Write weights in another layout, without loss.

    Args:
        source: as ``load`` takes it: weights of a CLIP, or of a method that names layouts in its ``export``.
        destination: a ``.safetensors`` file; a folder for 'huggingface'.
        to: one of ``layouts()``.
        overwrite: replace an existing destination.
        overrides: what the source does not specify, as ``load`` takes it.

    Returns:
        The file that was written.

    Raises:
        InputError: a layout that cannot hold the model, or a destination that exists.
        CheckpointError: as ``load``.
    """
    if to not in layouts():
        raise InputError(f'unknown layout {to!r}; one of {", ".join(layouts())}.{nearest(to, layouts())}')
    opened = open_weights(source)
    file = opened.file
    if self_describing.read_config(file, method_packages()):
        raise InputError(
            f'{source} is self-describing and is not converted: no other layout can hold its model'
        )
    method = find_method(file.tensors)
    able = CLIP_LAYOUTS if method is None else tuple(method.export)
    if to not in able:
        what = 'a CLIP' if method is None else f'a {method.name} model'
        have = f'choose from {", ".join(able)}' if able else 'it cannot be converted and is read as it is'
        raise InputError(f'{source} is {what}, which the layout {to!r} cannot hold: {have}')
    if method is None:
        return convert_clip(opened, destination, to, overwrite=overwrite, **overrides)  # type: ignore[arg-type]
    target = check_destination(destination, to == 'huggingface', overwrite)
    model = method.load_file(file, overrides)
    method.part(to)(model, Path(destination))
    return target


def check_destination(destination: str | Path, folder: bool, overwrite: bool) -> Path:
    """The file that will be written.

    Raises:
        InputError: a destination that is not a ``.safetensors`` file, or that exists.
    """
    destination = Path(destination)
    if not folder and destination.suffix != '.safetensors':
        raise InputError(f'{destination} must end in .safetensors, which is the format that is written')
    target = destination / 'model.safetensors' if folder else destination
    if target.exists() and not overwrite:
        raise InputError(f'{target} exists: choose another destination, or add --overwrite')
    return target
