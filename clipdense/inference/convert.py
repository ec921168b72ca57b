"""Weights of any model from one layout to another."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

from clipdense.clip import self_describing as portable
from clipdense.clip.checkpoint import convert as convert_clip
from clipdense.clip.checkpoint import open_weights
from clipdense.methods.groupvit import checkpoint as groupvit
from clipdense.methods.groupvit.model import GroupVit
from clipdense.methods.lseg import checkpoint as lseg
from clipdense.utils.errors import InputError
from clipdense.weights.io import write_weights

Target = Literal['clipdense', 'openclip', 'huggingface', 'nvlabs']


def convert(
    source: str | Path,
    destination: str | Path,
    to: Target = 'clipdense',
    *,
    overwrite: bool = False,
    **overrides: Any,
) -> Path:
    """Write weights in another layout.

    Args:
        source: whatever ``hub.load`` takes, of a CLIP or a GroupViT.
        destination: a ``.safetensors`` file; a folder for 'huggingface'.
        to: the layout: 'clipdense' or 'huggingface' of both models, 'openclip' of a CLIP, 'nvlabs' of a
            GroupViT.
        overwrite: replace what is there.
        overrides: what the weights do not tell, as ``hub.load`` takes it.

    Returns:
        What was written.

    Raises:
        InputError: a layout that cannot hold the model, or a destination that is there already.
        CheckpointError: as ``hub.load``.
    """
    opened = open_weights(source)
    file = opened.file
    if lseg.recognise(file.tensors) or portable.read_config(file):
        raise InputError(f'{source} is no CLIP or GroupViT: it is read as it is and not converted')
    if not groupvit.recognise(file.tensors):
        if to == 'nvlabs':
            raise InputError(f'{source} is a CLIP: nvlabs is the layout of a GroupViT')
        return convert_clip(opened, destination, to, overwrite=overwrite, **overrides)
    if to == 'openclip':
        raise InputError(f'{source} is a GroupViT, which open_clip does not know: nvlabs or huggingface')
    destination = Path(destination)
    if to != 'huggingface' and destination.suffix != '.safetensors':
        raise InputError(f'{destination} must name a .safetensors file, for that is what is written')
    there = destination / 'model.safetensors' if to == 'huggingface' else destination
    if there.exists() and not overwrite:
        raise InputError(f'{there} is there already: choose another destination, or add --overwrite')
    model = groupvit.from_file(file, **overrides)
    if to == 'huggingface':
        groupvit.save_huggingface(model, destination)
    elif to == 'nvlabs':
        write_weights(destination, groupvit.to_official(model, 'nvlabs'))
    else:
        groupvit.save(model, destination)
    _warn_of_what_is_not_told(model, there)
    return there


def _warn_of_what_is_not_told(model: GroupVit, written: Path) -> None:
    """Official layouts have no place for heads and activations other than the released ones."""
    before, after = _beyond_tensors(model), _beyond_tensors(groupvit.load(written))
    lost = [f'{name}={value!r}' for name, value in before.items() if after[name] != value]
    if lost:
        warnings.warn(f'{written} does not tell {", ".join(lost)}: whoever reads it has to say so')


def _beyond_tensors(model: GroupVit) -> dict[str, Any]:
    image, text = model.size.image, model.size.text
    heads = [stage.num_heads for stage in image.stages if stage.depth]
    return {'num_heads': heads, 'text_num_heads': text.num_heads, 'text_activation': text.activation}
