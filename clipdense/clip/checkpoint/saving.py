"""Save CLIP weights in the format of clipdense."""

from __future__ import annotations

import json
from pathlib import Path

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
