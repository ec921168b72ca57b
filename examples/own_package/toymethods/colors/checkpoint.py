"""Weights of ``Colors``: 'colors.*', and the text tower under 'text.*' with its size in the metadata."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.sizes import TextSize
from clipdense.clip.text import TextTransformer
from clipdense.weights.io import WeightsFile, write_weights
from clipdense.weights.strict import load_strict

from .segmenter import Colors


def from_file(file: WeightsFile) -> Colors:
    """The model of a weights file."""
    size = TextSize(**json.loads(file.metadata['text_size']))
    model = Colors(FrozenText(TextTransformer(size)))
    renamed = {f'clip.{name}' if name.startswith('text.') else name: x for name, x in file.tensors.items()}
    load_strict(model, renamed, file.path)
    return model


def write(model: Colors, file: Path) -> None:
    """Write a file that ``from_file`` reads."""
    tensors = {name.removeprefix('clip.'): tensor for name, tensor in model.state_dict().items()}
    write_weights(file, tensors, {'text_size': json.dumps(asdict(model.clip.text.size))})
