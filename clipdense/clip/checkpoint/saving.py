"""Save CLIP weights in the format of clipdense, and the files of other models for transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write
from clipdense.weights.io import write_weights

from ..model import CLIP
from ..preprocess import Preprocess
from ..sizes import ClipSize
from ..tokenizers import copy_tokenizer


def save(clip: CLIP, path: str | Path) -> None:
    """Save in the format of clipdense: one safetensors file that can be loaded without any other.

    A tokenizer that is not OpenAI's is copied into ``<name of the file>-tokenizer``.

    Raises:
        InputError: the disk is full or not writable; an existing file is left unchanged.
    """
    path = Path(path)
    copy_tokenizer(clip.tokenizer, path.with_name(f'{path.stem}-tokenizer'))  # first: no file lacks it
    write_weights(path, clip.state_dict(), describe(clip.size, clip.preprocess))


def describe(size: ClipSize, preprocess: Preprocess) -> dict[str, str]:
    """The metadata of the format of clipdense; in a training checkpoint it is ``meta['clip']``."""
    return {
        'format': 'clipdense',
        'version': '1',
        'size': json.dumps(size.to_dict()),
        'preprocess': json.dumps(preprocess.to_dict()),
    }


def write_huggingface_folder(
    folder: Path, tensors: Mapping[str, Tensor], configs: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write ``model.safetensors`` and the config files of a model for transformers.

    Args:
        folder: is made if need be.
        tensors: under the names of transformers.
        configs: contents of the JSON files by their names without suffix, such as 'config'.

    Raises:
        InputError: a folder that cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'cannot write {folder}: {error.strerror or error}') from error
    write_weights(folder / 'model.safetensors', tensors, {'format': 'pt'})
    for name, values in configs.items():
        with atomic_write(folder / f'{name}.json', 'w') as file:
            json.dump(values, file, indent=2)
