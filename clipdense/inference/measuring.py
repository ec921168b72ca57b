"""Scores of weights on data of one's own: what the file is, and what the data has, decide how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipdense.clip.model import CLIP
from clipdense.data.dataset_parts import DataLayout
from clipdense.data.layouts import recognize
from clipdense.data.roboflow import PROMPTS
from clipdense.evaluation.own_data import OwnData
from clipdense.methods import Method, default_method, list_methods
from clipdense.tasks.adapters import Adapter
from clipdense.utils.errors import InputError

from .classifier import Classifier
from .detector import Detector
from .load import Embedder, load, method_of
from .segmenter import Segmenter

_WITH_OPTIONS: dict[str, Any] = {'segmentation': Segmenter, 'detection': Detector}


def measure(
    weights: str | Path,
    data: str | Path,
    part: str | None = None,
    *,
    classes: Sequence[str] = (),
    novel: Sequence[str] = (),
    wording: str | Path | None = None,
    embedder: Embedder | None = None,
    adapter: Adapter | str | Path | None = None,
    device: str | None = None,
    method_options: Mapping[str, Any] | None = None,
) -> tuple[dict[str, float], OwnData]:
    """Score a trained model without its config.

    Args:
        weights: as ``load`` takes them.
        data: what ``data.layouts.recognize`` knows.
        part: name of a part of the data; by default what validates a training, or all there is.
        classes: class names in place of those of the data, in the order of its labels.
        novel: classes that are also scored apart from the others.
        wording: file with the words around the names of boxes, see ``vocab.wording.with_wording``.
        embedder, adapter: learned prompts, class embeddings, and an adapter, as predictors take them.
        device: of the model.
        method_options: settings of the method of a segmenter or detector, see ``get_method(name).options``.

    Returns:
        Metrics by name, those of the test of a config; and what was scored.  Of a folder of data sets those
        of each, and their means (``average/AP``).

    Raises:
        InputError: the model cannot be scored on such data.
    """
    first = recognize(data, several=True)
    model = load(weights, device)
    usable = {kind: entry for entry in reversed(_entries(model)) for kind in entry.tests}
    if not usable:
        raise InputError(f'{weights} ({type(model).__name__}) cannot be tested without a config')
    own = OwnData(_usable(data, first, usable, weights), part, classes, novel, wording)
    _check(own)
    entry = usable[own.layout.kind]
    score = entry.part(own.layout.kind, 'tests')
    more = {'method_options': method_options} if method_options else {}
    if more and entry.task not in _WITH_OPTIONS:
        raise InputError(
            f'options are for segmenters and detectors; {weights} is a {type(model).__name__}: '
            f'remove {next(iter(more["method_options"]))!r}'
        )
    if entry.task == 'captioning':
        if embedder is not None or adapter is not None:
            raise InputError(f'--prompts and --adapter are for class names, which {weights} does not read')
        return score(model, own), own
    predictor = _WITH_OPTIONS.get(entry.task, Classifier).from_pretrained(
        model, embedder=embedder, adapter=adapter, device=device, precision='fp32', **more
    )
    if own.layout.members:
        return _of_several(lambda one: score(predictor, one), own), own
    return score(predictor, own), own


def _check(own: OwnData) -> None:
    """Raise for a part that is missing, and for settings that the data cannot have."""
    for one in own.layout.members.values() or [own.layout]:
        one.part(own.part)
    if own.layout.members:
        for option, given in (('--classes', own.classes), ('--novel', own.novel), ('--wording', own.wording)):
            if given:
                raise InputError(
                    f'{own.layout.path} has {own.layout.layout}, whose classes differ: give {option} for one '
                    f'of them, or put {PROMPTS} into its folder'
                )
    elif own.wording is not None and own.layout.kind != 'boxes':
        raise InputError(f'--wording is for boxes; {own.layout.path} has {own.layout.kind}: remove it')


def _of_several(score: Callable[[OwnData], dict[str, float]], own: OwnData) -> dict[str, float]:
    """Metrics of each data set and their means, without those where there is nothing to be found (-1)."""
    found: dict[str, float] = {}
    values: dict[str, list[float]] = {}
    for name, layout in own.layout.members.items():
        one = OwnData(layout, own.part)
        for metric, value in score(one).items():
            metric = metric.removeprefix('all/')
            found[f'{name}/{metric}'] = value
            values.setdefault(metric, []).extend([value] if value >= 0 else [])
        own.count += one.count
    means = {f'average/{metric}': sum(one) / len(one) for metric, one in values.items() if one}
    return found | means


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
            return recognize(data, kind, several=True)
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
