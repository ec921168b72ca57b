"""CLIP weights in and out: any official format becomes a model that is ready, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clipdense.utils.errors import InputError
from clipdense.weights.io import write_weights

from .convert import convert
from .model import CLIP
from .official import OpenedWeights, Overrides, describe, fitting_model, open_weights, read_clip
from .tokenizers import copy_tokenizer

__all__ = ['OpenedWeights', 'Overrides', 'convert', 'describe', 'load', 'open_weights', 'save']


def load(
    weights: str | Path | OpenedWeights,
    device: str | torch.device = 'cpu',
    dtype: torch.dtype | None = None,
    **overrides: Any,
) -> CLIP:
    """A CLIP in evaluation mode, with its ``preprocess`` and ``tokenizer``.

    Args:
        weights: a file of OpenAI, open_clip, SLIP, Hugging Face or clipdense, a folder of Hugging Face or
            open_clip, a training checkpoint, a name from `clipdense models` such as 'ViT-B-16/openai', or
            what ``open_weights`` returned for one of these.
        device: where the model goes.
        dtype: of its numbers; fp32 unless said, whatever the file holds.
        overrides: what the weights do not tell, see ``Overrides``: ``activation='quick_gelu'`` and so on.

    Raises:
        CheckpointError: damaged or unsafe, of no known layout, keys and shapes that do not fit, or something
            that only an override can tell.
        InputError: an unknown name, a download that failed, or a missing device.
    """
    found = read_clip(weights, Overrides(**overrides))
    clip = fitting_model(found)
    dtype = dtype or torch.float32
    try:
        state = {
            name: tensor.to(
                device,
                dtype if tensor.is_floating_point() else tensor.dtype,
                copy=True,  # the file may change, the model must not
                memory_format=torch.contiguous_format,
            )
            for name, tensor in found.tensors.items()
        }
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {str(device)!r} cannot be used here ({reason}); try device='cpu'"
        ) from error
    clip.load_state_dict(state, assign=True)
    return clip.eval()


def save(clip: CLIP, path: str | Path) -> None:
    """Write our own format: one safetensors file that can be loaded without anything beside it.

    A tokenizer that is not OpenAI's is copied into ``<name of the file>-tokenizer``.

    Raises:
        InputError: no room, or no permission; a previous file is intact.
    """
    path = Path(path)
    write_weights(path, clip.state_dict(), describe(clip.size, clip.preprocess))
    copy_tokenizer(clip.tokenizer, path.with_name(f'{path.stem}-tokenizer'))
