"""Reproduce a published score: requirements, both scores, tolerance and verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clipdense.data.segmentation.datasets import LabeledImages
from clipdense.utils.errors import InputError
from clipdense.utils.files import sha256
from clipdense.weights import zoo

from .measure import Source, Subject, check_method, conditions, measure, preset_of, record
from .presets import FAMILIES, Preset
from .published import ELSEWHERE, STATUSES, Published, published
from .tables import Cell


class NotReady(InputError):
    """Something that the run needs is not available; ``needs`` has a line for each."""

    def __init__(self, needs: list[str]) -> None:
        super().__init__('; '.join(needs))
        self.needs = needs


@dataclass(frozen=True)
class Run:
    """A method on a dataset, ready to run."""

    method: str
    dataset: str
    preset: Preset
    subject: Subject
    data: LabeledImages
    target: Published | None  # the published score
    same_weights: bool | None  # whether the weights are those of the target; None if unknown
    workers: int = 0


@dataclass(frozen=True)
class Verdict:
    """The measured and the published score."""

    cell: Cell
    preset: Preset
    target: Published | None
    text: str  # 'reproduced', 'not reproduced: ...' or 'not comparable: ...'

    def __str__(self) -> str:
        ours = 'n/a' if self.cell['miou'] is None else f'{self.cell["miou"]:.2f}'
        name = self.cell['preset']['name']
        lines = [f'{self.cell["method"]} on {self.cell["dataset"]}, preset {name} ({FAMILIES[name].source})']
        lines.append(f'settings   {self.preset}')
        if FAMILIES[name].note:
            lines.append(f'note       {FAMILIES[name].note}')
        if self.target is not None:
            target = self.target
            lines.append(
                f'published  {target.miou:g} [{target.status}: {STATUSES[target.status]}] {target.source}'
            )
        lines.append(f'ours       {ours} ({self.cell["data"]["images"]} images, {self.cell["device"]})')
        if self.target is not None:
            lines.append(f'tolerance  {self.target.tolerance:g} points')
        return '\n'.join([*lines, f'verdict    {self.text}'])


def gather(
    method: str,
    dataset: str,
    weights: str,
    load: Callable[[str], Subject],
    source: Source,
    preset: str | None = None,
) -> Run:
    """Prepare a run.

    Args:
        method: name of a training-free method.
        dataset: a name in ``BENCHMARKS``, or a folder in PASCAL VOC format.
        weights: a name in the zoo, or a file.
        load: reads the weights.
        source: where the datasets are.
        preset: family; the method's own by default.

    Raises:
        NotReady: what is missing, one line each.
        InputError: an unknown method, dataset or preset.
    """
    settings = preset_of(method, dataset, preset)
    needs: list[str] = []
    subject, data = None, None
    try:
        subject = load(weights)
    except InputError as error:
        needs.append(f'weights: {error}')
    if subject is not None:
        check_method(method, subject.methods)
        settings = preset_of(method, dataset, preset, subject.trained)
    try:
        data = source.open(dataset, settings.words)
    except InputError as error:
        needs.append(f'data: {error}')
    if subject is not None:
        try:
            with subject.segmenter(method, settings):
                pass
        except InputError as error:
            needs.append(f'method: {error}')
    if needs or subject is None or data is None:
        raise NotReady(needs)
    target = _target(method, dataset, settings.name, weights)
    same = None if target is None else same_weights(weights, target.weights)
    return Run(method, dataset, settings, subject, data, target, same, source.workers)


def reproduce(run: Run) -> Verdict:
    """Measure, and compare with the published score.

    Raises:
        InputError: as ``measure``.
    """
    facts = conditions(run.subject, run.method, run.dataset, run.data, run.preset)
    scores, seconds = measure(run.subject, run.method, run.data, run.preset, run.workers)
    cell = record(facts, run.subject, run.data, scores, seconds)
    return Verdict(cell, run.preset, run.target, judge(cell, run.target, run.same_weights))


def judge(cell: Cell, target: Published | None, same: bool | None) -> str:
    """The verdict as text."""
    data = cell['data']
    if target is None:
        return 'not comparable: no score was published for this method, dataset and preset'
    if cell['miou'] is None:
        return 'not comparable: no class occurs in the labels'
    if data['complete'] is False:
        return f'not comparable: {data["images"]} of {data["published_images"]} images'
    if same is False:
        return f'not comparable: the published score is for {target.weights}'
    distance = cell['miou'] - target.miou
    doubt = '' if same else f', if these weights are {target.weights} (which the file does not record)'
    doubt += ' (the published score is not verified)' if target.status == 'M' else ''
    if abs(distance) <= target.tolerance:
        return f'reproduced ({distance:+.2f} points){doubt}'
    return f'not reproduced: {distance:+.2f} points{doubt}'


def same_weights(weights: str, name: str) -> bool | None:
    """Whether these are the weights of that name; None if unknown, as for converted files."""
    if name in ELSEWHERE:
        return None
    entry = zoo.find(name)
    if not Path(weights).exists():
        return zoo.find(weights).name == entry.name
    path = Path(weights)
    if entry.sha256 and path.is_file() and path.suffix == Path(entry.url).suffix:
        return sha256(path).startswith(entry.sha256)
    return None


def _target(method: str, dataset: str, preset: str, weights: str) -> Published | None:
    """The best verified score under these settings, preferably for these weights."""
    numbers = published(method, dataset, preset)
    own = [number for number in numbers if same_weights(weights, number.weights)]
    return next(iter(own or numbers), None)
