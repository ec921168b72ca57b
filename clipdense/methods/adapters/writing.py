"""Write adapters as self-describing files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from clipdense.tasks.adapters import Origin
from clipdense.utils.errors import InputError
from clipdense.weights.io import write_weights

FORMAT = 'clipdense-adapter'
KEYS, LABELS = 'cache.keys', 'cache.labels'


def write_adapter(
    path: str | Path, tensors: Mapping[str, Tensor], origin: Origin, settings: Mapping[str, Any]
) -> None:
    """Write tensors with everything that loading them needs, and the digest of the weights they belong to.

    Raises:
        InputError: a name that is not ``.safetensors``, or a disk that is full or not writable.
    """
    path = Path(path)
    if path.suffix != '.safetensors':
        raise InputError(f'{path}: adapters are written as safetensors; use {path.stem}.safetensors')
    described = json.dumps({'origin': asdict(origin), **settings}, ensure_ascii=False)
    write_weights(path, tensors, {'format': FORMAT, 'version': '1', 'settings': described})
