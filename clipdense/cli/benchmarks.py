"""Commands for published datasets and benchmark results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.methods import get_method, list_methods
from clipdense.utils.errors import InputError
from clipdense.utils.files import check_outputs
from clipdense.utils.wording import counted

from .early import check_device, check_method, check_weights
from .options import (
    DEFAULT_WEIGHTS,
    Activation,
    AsJson,
    Device,
    Override,
    Overwrite,
    Weights,
    grouped,
    weight_overrides,
)
from .output import print_json

if TYPE_CHECKING:
    from clipdense.benchmarks.measure import Source, Subject
    from clipdense.data.segmentation.published.voc_folders import VocFolder

_NO_NETWORK = ('CLIPDENSE_OFFLINE', 'HF_HUB_OFFLINE')

DataRoot = Annotated[
    Path, typer.Option('--data-root', envvar='CLIPDENSE_DATA', help='Folder that contains the datasets.')
]
PresetName = Annotated[
    str | None,
    typer.Option(
        '--preset', help="Published evaluation settings: sclip, clearclip, ... [default: the method's]"
    ),
]
MethodOptions = Annotated[
    list[str] | None,
    typer.Option('--option', '-o', help="Set METHOD.NAME=VALUE: 'naclip.std=3.0'. May be repeated."),
]
Partial = Annotated[bool, typer.Option('--partial', help='Allow incomplete datasets.')]
Limit = Annotated[int | None, typer.Option(min=1, help='Maximum number of images per dataset.')]
Workers = Annotated[int, typer.Option(min=0, help='Number of worker processes; 0: none.')]
Split = Annotated[str, typer.Option(help='Split of datasets in PASCAL VOC format.')]


@dataclass(frozen=True)
class DataArguments:
    """Location of the datasets, and how much of them is used."""

    data_root: DataRoot = Path('data')
    split: Split = 'val'
    partial: Partial = False
    limit: Limit = None
    workers: Workers = 0

    def source(self) -> Source:
        """The ``Source`` of a benchmark run."""
        from clipdense.benchmarks.measure import Source

        return Source(self.data_root, self.split, self.partial, self.limit, self.workers)


@dataclass(frozen=True)
class SubjectArguments:
    """The weights to measure, and what some methods need in addition."""

    weights: Weights = DEFAULT_WEIGHTS
    option: MethodOptions = None
    activation: Activation = None
    override: Override = None
    device: Device = None

    def load(self, weights: str | None = None) -> Subject:
        """The ``Subject`` of a benchmark run.

        Raises:
            InputError: as ``clipdense.load``.
        """
        from clipdense.benchmarks.build import make_subject
        from clipdense.inference.load import load
        from clipdense.utils.devices import choose_device

        name, options = weights or self.weights, self.options()
        overrides = weight_overrides(self.activation, self.override)
        model = load(name, choose_device(self.device), **overrides)
        return make_subject(model, name, options)

    def check(self, methods: list[str], datasets: list[str]) -> None:
        """Check names and paths before anything heavy is imported.

        Args:
            methods: METHOD or METHOD:PRESET.
            datasets: names, or FOLDER or FOLDER:SPLIT.

        Raises:
            InputError: of the first mistake.
        """
        from clipdense.data.segmentation.published import find_benchmark

        self.options()
        check_device(self.device)
        weight_overrides(self.activation, self.override)
        for method in methods:
            check_method(method.partition(':')[0], 'segmentation', any_clip=None)
        for dataset in datasets:
            if not any(Path(folder).exists() for folder in (dataset, dataset.rpartition(':')[0] or dataset)):
                find_benchmark(dataset)

    def options(self) -> dict[str, dict[str, Any]]:
        """Options by method.

        Raises:
            InputError: an unknown method, or an option that it does not have.
        """
        return options_by_method(self.option)


def options_by_method(option: list[str] | None) -> dict[str, dict[str, Any]]:
    """``['naclip.std=3.0']`` -> options by method.

    Raises:
        InputError: an unknown method, or an option that it does not have.
    """
    from clipdense.config import parse_options

    found: dict[str, dict[str, Any]] = {}
    for key, value in parse_options(option or []).items():
        method, dot, name = key.partition('.')
        if not dot:
            raise InputError(f'option {key!r} names no method: write METHOD.{key}={value}')
        get_method(method, 'segmentation').check_options({name: value})
        found.setdefault(method, {})[name] = value
    return found


def prepare(
    dataset: Annotated[str, typer.Argument(help='coco_stuff, context60, voc_aug, camvid, bccd, ...')],
    root: Annotated[
        Path,
        typer.Argument(envvar='CLIPDENSE_DATA', help='Folder of the dataset, or of all datasets.'),
    ] = Path('data'),
    source: Annotated[
        Path | None, typer.Option(help='Folder of the original labels [default: inside ROOT].')
    ] = None,
    train_split: Annotated[
        bool, typer.Option('--train-split', help='Convert the training split too.')
    ] = False,
    check: Annotated[
        bool, typer.Option('--check', help='Only check whether the files are complete.')
    ] = False,
    workers: Workers = 0,
) -> None:
    """Convert the labels of a published dataset and check that it is complete.

    Original files are not changed. Run it again after an interruption.

    Example: `clipdense prepare coco_stuff data/coco_stuff164k --workers 4`
    """
    _check_prepared(dataset, source)
    from clipdense.data.segmentation.published.prepare import check as find
    from clipdense.data.segmentation.published.prepare import prepare as convert
    from clipdense.data.segmentation.published.voc_folders import VOC_FOLDERS

    if dataset.lower() in VOC_FOLDERS:
        _prepare_voc_folder(VOC_FOLDERS[dataset.lower()], root, None if check else source, workers)
        return
    failed = False
    if not check:
        report = convert(dataset, root, source, train_split, workers)
        print(report if report.made + report.kept + len(report.faults) else 'no conversion needed')
        failed = bool(report.faults)
    for title, place, found in find(dataset, root):
        for fault in found.faults:
            print(f'{title}: {fault}')
        if not found.faults:
            print(f'{title}: complete, {counted(len(found.images), "image")} in {place}')
        failed = failed or bool(found.faults)
    if failed:
        raise typer.Exit(1)


def _check_prepared(dataset: str, source: Path | None) -> None:
    """Check the name and the path before anything heavy is imported."""
    from clipdense.data.segmentation.published import BENCHMARKS, find_benchmark
    from clipdense.data.segmentation.published.table import TRAINING_DATA
    from clipdense.data.segmentation.published.voc_folders import VOC_FOLDERS

    conversions = {benchmark.prepare for benchmark in BENCHMARKS.values()}
    if dataset.lower().replace('-', '_') not in {*VOC_FOLDERS, *conversions, *TRAINING_DATA}:
        find_benchmark(dataset)
    if source is not None and not source.exists():
        raise InputError(f'--source {source} does not exist')


def _prepare_voc_folder(dataset: VocFolder, root: Path, source: Path | None, workers: int) -> None:
    from clipdense.data.segmentation.published.voc_folders import describe_folder, prepare_folder

    report = prepare_folder(dataset, root, source, workers) if source else None
    if report:
        print(report)
    print(describe_folder(dataset, root))
    if report and report.faults:
        raise typer.Exit(1)


@grouped
def reproduce(
    method: Annotated[str, typer.Argument(help='sclip, naclip, ..., or the method of trained weights.')],
    dataset: Annotated[str, typer.Argument(help='voc21, context59, ..., or a folder in PASCAL VOC format.')],
    measured: SubjectArguments,
    data: DataArguments,
    preset: PresetName = None,
    out: Annotated[Path | None, typer.Option('--out', help='JSON file to write the result to.')] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Reproduce a published result and compare within a tolerance. Downloads nothing.

    Example: `clipdense reproduce sclip voc21 --weights ViT-B-16.pt --data-root data`
    """
    check_outputs([out] if out else [], overwrite, [measured.weights])
    measured.check([method], [dataset])
    from clipdense.benchmarks.grid import check_names
    from clipdense.benchmarks.reproduce import NotReady, gather
    from clipdense.benchmarks.reproduce import reproduce as measure
    from clipdense.benchmarks.tables import write_json

    check_names([method], [dataset], preset, _known_methods())
    with _offline():
        try:
            run = gather(method, dataset, measured.weights, measured.load, data.source(), preset)
        except NotReady as error:
            for need in error.needs:
                typer.echo(f'clipdense: missing: {need}', err=True)
            raise typer.Exit(2) from error
        verdict = measure(run)
    print(verdict)
    facts = {**verdict.cell, 'verdict': verdict.text}
    if out:
        write_json(out, facts)
    if as_json:
        print_json(facts)


@grouped
def bench(
    methods: Annotated[
        str, typer.Option(help='Comma-separated METHOD or METHOD:PRESET: sclip,naclip:naclip_pamr; or all.')
    ],
    datasets: Annotated[
        str, typer.Option(help='Comma-separated names, or FOLDER or FOLDER:SPLIT in VOC format; or all.')
    ],
    measured: SubjectArguments,
    data: DataArguments,
    preset: PresetName = None,
    out: Annotated[Path, typer.Option('--out', help='Output folder for results and tables.')] = Path(
        'segmentation_benchmark'
    ),
    as_json: AsJson = False,
) -> None:
    """Measure methods on datasets and write a table with ours and the published results.

    Finished results in the output folder are reused. Weights of a trained segmenter (GroupViT, LSeg) have
    one method: pass `--methods all`.

    Example: `clipdense bench --methods vanilla,sclip --datasets voc21,data/my_voc`
    """
    from clipdense.data.segmentation.published import BENCHMARKS
    from clipdense.utils.files import check_output_folder

    check_output_folder(out)
    columns = _names(datasets, BENCHMARKS)
    named = methods.strip() != 'all'
    measured.check(_names(methods) if named else [], columns)
    check_weights(measured.weights)
    from clipdense.benchmarks.build import runnable
    from clipdense.benchmarks.grid import Grid, check_datasets, check_names

    if named:
        check_names(_names(methods), columns, preset, _known_methods())
    check_datasets(columns, data.source())
    subject = measured.load()
    able, skipped = runnable(subject)
    if skipped and not named:
        needs = {need: [name for name in skipped if skipped[name] == need] for need in skipped.values()}
        parts = [f'{", ".join(names)} ({_need(names)} {need})' for need, names in needs.items()]
        print(f'skipped: {", ".join(parts)}')
    grid = Grid(subject, _names(methods, able), columns, out, data.source(), preset)
    failed, cells = 0, []
    for cell in grid.run():
        cells.append(cell)
        place = f'{cell["method"]} on {cell["dataset"]}'
        if 'failure' in cell:
            failed += 1
            typer.echo(f'clipdense: {place}: {cell["failure"]}', err=True)
            continue
        ours = 'n/a' if cell['miou'] is None else f'{cell["miou"]:.2f}'
        print(f'{place}: mIoU {ours}{" (from an earlier run)" if cell.get("stored") else ""}')
    print(f'tables: {out / "table.md"}, table.csv, table.json')
    if as_json:
        print_json(cells)
    if failed:
        raise typer.Exit(1)


def _names(text: str, every: Iterable[str] = ()) -> list[str]:
    if text.strip() == 'all':
        return list(every)
    return [name.strip() for name in text.split(',') if name.strip()]


def _need(names: list[str]) -> str:
    return 'needs' if len(names) == 1 else 'need'


def _known_methods() -> tuple[str, ...]:
    return tuple(one.name for one in list_methods('segmentation'))


@contextmanager
def _offline() -> Iterator[None]:
    """Turn downloads off, so that missing files are errors."""
    before = {name: os.environ.get(name) for name in _NO_NETWORK}
    os.environ.update(dict.fromkeys(_NO_NETWORK, '1'))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
