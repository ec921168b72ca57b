"""What would hurt a training, found before it: every file is read once, by the readers that training uses."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError
from clipdense.utils.image_files import find_image
from clipdense.utils.image_io import read_image
from clipdense.utils.progress import track
from clipdense.utils.wording import counted

from .layouts import SHARDS, DataLayout, Kind, recognize

_SMALL = 32  # pixels
_SHOWN = 5  # names in a line
_LOST, _GRACE = 0.01, 10  # unreadable samples that a training skips, see ``faults``


@dataclass
class DataReport:
    """What was found.

    Args:
        path: of the data.
        kind, layout: what it has.
        samples: number of usable samples.
        classes: how often each class occurs: pixels, boxes or images.
        faults: what stops a training.
        remarks: what does not, but may be meant otherwise.
    """

    path: str
    kind: str = ''
    layout: str = ''
    samples: int = 0
    classes: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def note(self, where: Sequence[str], noun: str, what: str, stops: bool = False) -> None:
        """Add a line about some samples, if there are any.

        Args:
            where: the samples.
            noun: one of them, in the singular.
            what: about them; ``is/are`` stands for the form of the verb.
            stops: whether a training would stop.
        """
        if where:
            more = ', ...' if len(where) > _SHOWN else ''
            verbs = what.split(' ')
            said = ' '.join(verb.split('/')[len(where) > 1] if '/' in verb else verb for verb in verbs)
            line = f'{counted(len(where), noun)} {said}: {", ".join(where[:_SHOWN])}{more}'
            (self.faults if stops else self.remarks).append(line)


def check_data(path: str | Path, kind: Kind | None = None, batch_size: int | None = None) -> DataReport:
    """Read all samples once.

    Args:
        path: see ``layouts.recognize``.
        kind: what it should have; recognized by default.
        batch_size: of the training, to say if there are fewer samples.
    """
    report = DataReport(str(path))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try:
            layout = recognize(path, kind)
            report.kind, report.layout = layout.kind, layout.layout
            for part, data in _datasets(layout):
                _check_part(report, layout, data, part)
        except InputError as error:
            report.faults.append(str(error))
    report.remarks += dict.fromkeys(str(one.message) for one in said if one.category is UserWarning)
    absent = [name for name, count in report.classes.items() if not count]
    report.note(absent, 'class', 'without samples')
    if batch_size is not None and 0 < report.samples < batch_size:
        few = counted(report.samples, 'sample') + (' is' if report.samples == 1 else ' are')
        report.remarks.append(f'{few} fewer than a batch of {batch_size}')
    return report


def _datasets(layout: DataLayout) -> Iterator[tuple[str, Any]]:
    """What a training reads, and what validates it; all parts of labeled images."""
    if layout.layout == SHARDS:
        yield 'train', layout.train.build(batch_size=1)
    elif layout.kind == 'images':
        try:
            yield 'train', layout.train.build(split='all')
        except InputError:  # it has parts of its own
            for part in ('train', 'val', 'test'):
                yield part, layout.train.build(split=part)
    else:
        yield 'train', layout.train.build()
        if layout.val is not None:
            yield 'val', layout.val.build()


def _check_part(report: DataReport, layout: DataLayout, data: Any, part: str) -> None:
    if layout.layout == SHARDS:
        report.samples += sum(1 for _ in data)
        if not report.samples:
            report.faults.append(f'{layout.path} has no sample with an image and a caption')
    elif layout.kind == 'masks':
        found = data.check()
        report.faults += found.faults
        report.samples += found.images if part == 'train' else 0
        report.classes = _absent(report, found.pixels)
        _check_sizes(report, [str(path) for path in data.images], read=False)
    elif layout.kind == 'boxes':
        _check_boxes(report, data)
    elif layout.kind == 'phrases':
        _check_images(report, data)
    elif layout.kind == 'captions':
        _check_captions(report, data)
    elif layout.kind == 'questions':
        _check_sizes(report, list(dict.fromkeys(data.paths[index] for index in range(len(data)))))
        report.samples += len(data)
    else:
        names = [data.class_names[label] for label in data.labels]
        report.classes = _absent(report, {**dict.fromkeys(data.class_names, 0), **Counter(names)})
        files = [str(data.key(index)) for index in range(len(data))]
        _check_sizes(report, files, data=data)
        report.samples += len(files)


def _absent(report: DataReport, names: dict[str, int]) -> dict[str, int]:
    """Every class, with how often it occurs in all parts."""
    return {name: report.classes.get(name, 0) + count for name, count in names.items()}


def _check_boxes(report: DataReport, data: Any) -> None:
    counts = Counter(one['label'] for image in data.images for one in image.objects)
    found = {name: counts[label] for label, name in enumerate(data.vocabulary.class_names)}
    report.classes = _absent(report, found)
    _check_images(report, data)


def _check_images(report: DataReport, data: Any) -> None:
    """Read every image, and note small boxes."""
    small: list[str] = []
    for index in track(range(len(data)), 'checking images'):
        try:
            data[index]
        except InputError as error:
            report.faults.append(str(error))
        small += [
            str(data.images[index].path) for one in data.images[index].objects if min(one['bbox'][2:]) < 2
        ]
    report.note(small, 'box', 'narrower than two pixels')
    report.samples += len(data)


def _check_captions(report: DataReport, data: Any) -> None:
    from clipdense.vocab.tokenizer import Tokenizer

    tokenizer = Tokenizer(max_warnings=0)
    paths = [data.paths[index] for index in range(len(data))]
    captions = [caption for index in range(len(data)) for caption in data.captions_of(index)]
    again = [caption for caption, count in Counter(captions).items() if count > 1]
    report.note(again, 'caption', 'occurs/occur several times')
    twice = [path for path, count in Counter(paths).items() if count > 1]
    report.note(twice, 'image', 'occurs/occur several times')
    long = [one for one in captions if len(tokenizer.encode(one)) > tokenizer.context_length - 2]
    report.note([f'{one[:60]!r}' for one in long], 'caption', 'is/are longer than the context and is/are cut')
    rows = getattr(data, 'rows', None)
    if rows is not None and rows.lost:
        report.remarks.append(f'{rows.lost} of {rows.seen} rows cannot be used and are skipped')
    _check_sizes(report, paths)
    report.samples += len(paths)
    if report.samples == 1:
        report.faults.append('one caption has nothing to be told apart from: a contrastive loss needs two')


def _check_sizes(report: DataReport, files: Sequence[str], data: Any = None, read: bool = True) -> None:
    """Read the images: those that cannot be read, and very small ones."""
    small, bad = [], []
    for index, file in enumerate(track(files, 'checking images') if read else ()):
        try:
            image = data.read(index)[0] if data is not None else read_image(find_image(file))
        except InputError as error:
            bad.append(str(error))
            continue
        if min(image.size) < _SMALL:
            small.append(file)
    report.note(small, 'image', f'is/are smaller than {_SMALL} pixels')
    report.note(
        bad, 'image', 'cannot be read', stops=len(bad) > _GRACE + _LOST * len(files) or len(bad) == len(files)
    )
