"""Scores of weights on data of one's own: what the file is, and what the data has, decide how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from clipdense.clip.model import CLIP
from clipdense.data.layouts import DataLayout, recognize
from clipdense.evaluation.own_data import OwnData
from clipdense.methods import Method, default_method, list_methods
from clipdense.tasks.adapters import Adapter
from clipdense.utils.errors import InputError

from .classifier import Classifier
from .detector import Detector
from .load import Embedder, load, method_of
from .segmenter import Segmenter


def measure(
    weights: str | Path,
    data: str | Path,
    part: str | None = None,
    *,
    classes: Sequence[str] = (),
    novel: Sequence[str] = (),
    embedder: Embedder | None = None,
    adapter: Adapter | str | Path | None = None,
    device: str | None = None,
) -> tuple[dict[str, float], OwnData]:
    """Score a trained model without its config.

    Args:
        weights: as ``load`` takes them.
        data: what ``data.layouts.recognize`` knows.
        part: name of a part of the data; by default what validates a training, or all there is.
        classes: class names in place of those of the data, in the order of its labels.
        novel: classes that are also scored apart from the others.
        embedder, adapter: learned prompts, class embeddings, and an adapter, as predictors take them.
        device: of the model.

    Returns:
        Metrics by name, those of the test of a config; and what was scored.

    Raises:
        InputError: the model cannot be scored on such data.
    """
    first = recognize(data)
    model = load(weights, device)
    usable = {kind: entry for entry in reversed(_entries(model)) for kind in entry.tests}
    if not usable:
        raise InputError(f'{weights} ({type(model).__name__}) cannot be tested without a config')
    own = OwnData(_usable(data, first, usable, weights), part, classes, novel)
    own.layout.part(part)
    entry = usable[own.layout.kind]
    score = entry.part(own.layout.kind, 'tests')
    if entry.task == 'captioning':
        if embedder is not None or adapter is not None:
            raise InputError(f'--prompts and --adapter are for class names, which {weights} does not read')
        return score(model, own), own
    kinds: dict[str, Any] = {'segmentation': Segmenter, 'detection': Detector}
    predictor = kinds.get(entry.task, Classifier).from_pretrained(
        model, embedder=embedder, adapter=adapter, device=device, precision='fp32'
    )
    return score(predictor, own), own


def _usable(data: str | Path, found: DataLayout, kinds: Iterable[Any], weights: object) -> DataLayout:
    """The layout of a kind that the model can be scored on.

    Raises:
        InputError: the data has nothing of these kinds.
    """
    kinds = list(kinds)
    if found.kind in kinds:
        return found
    for kind in kinds:
        try:
            return recognize(data, kind)
        except InputError:
            continue
    raise InputError(f'{data} has {found.kind} ({found.layout}); {weights} is tested on {" or ".join(kinds)}')


def _entries(model: Any) -> list[Method]:
    """The methods that say how such a model is tested."""
    entry = method_of(model)
    if entry is not None:
        return [entry]
    if not isinstance(model, CLIP):
        return []
    return [*list_methods('pre-training'), default_method('segmentation')]
