"""``clipdense init`` and ``clipdense check-data``: one's own data, before the training."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from clipdense.methods import Method, list_methods
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.files import check_outputs, names_shards
from clipdense.utils.wording import counted

from .early import check_files, check_weights
from .options import AsJson, Overwrite
from .output import print_json


def starters() -> dict[str, Method]:
    """Each method that has a config for data of one's own, by the name that the command takes."""
    return {name: method for method in list_methods() for name in method.starters}


_NAMES = ', '.join(sorted(starters()))
_ALONE = ', '.join(name for name, method in sorted(starters().items()) if method.starts_alone)
StartWeights = Annotated[
    str | None,
    typer.Option(
        '--weights',
        '-w',
        help='CLIP to start from, a name or file [default: embedded'
        + (f'; {_ALONE}: none].' if _ALONE else '].'),
        show_default=False,
    ),
]


def init(
    method: Annotated[str, typer.Argument(help=f'What to train: {_NAMES}.', show_default=False)],
    data: Annotated[
        str, typer.Argument(help='Your data: a folder, a table, or a JSON file.', show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option('--out', help='The config to write [default: METHOD_DATA.py].')
    ] = None,
    weights: StartWeights = None,
    overwrite: Overwrite = False,
) -> None:
    """Look at your data, and write a config of one page that `clipdense train` runs.

    The training starts from the CLIP of `--weights`, or where a method needs none from nothing.

    Example: `clipdense init lseg my_masks/`
    """
    known = starters()
    if method not in known:
        raise InputError(
            f'init has no {method!r}; it has {", ".join(sorted(known))}.{nearest(method, known)}'
        )
    path = out or Path(f'{method}_{_plain(data)}.py')
    if path.suffix != '.py':
        raise InputError(f'--out {path}: a config ends in .py')
    check_outputs([path], overwrite, [data] if Path(data).is_file() else [])
    if weights is None and not known[method].starts_alone:
        weights = 'embedded'
    check_weights(weights)
    if not Path(data).is_dir() and not names_shards(data):
        check_files(data)
    from clipdense.data.starting import Start
    from clipdense.utils.files import atomic_write

    start = Start(data, weights, path)
    text = known[method].part(method, 'starters')(start)
    with atomic_write(path, 'w') as file:
        file.write(text)
    samples = '' if start.count is None else f', {counted(start.count, "sample")}'
    print(f'{data}: {start.layout.kind} ({start.layout.layout}{samples})')
    print(f'{path}: run `clipdense train {path}`, which writes to {start.work_dir}')


def _plain(data: str) -> str:
    """A name for the config that can be imported."""
    name = re.sub(r'\W+', '_', Path(data.rstrip('/')).resolve().stem if Path(data).exists() else 'shards')
    return name.strip('_') or 'data'


def check_data(
    path: Annotated[
        str, typer.Argument(help='A folder, a table, shards or a JSON file.', show_default=False)
    ],
    kind: Annotated[
        str | None,
        typer.Option(help='captions, masks, boxes, questions or images, where a folder has several.'),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help='Batch size of the training.')] = None,
    as_json: AsJson = False,
) -> None:
    """Find before training what would hurt during it; every file is read once.

    The exit status is 1 if something would stop a training.

    Example: `clipdense check-data data/mine --kind masks`
    """
    from dataclasses import asdict
    from typing import cast

    if not names_shards(path) and not Path(path).expanduser().exists():
        raise InputError(f'{path} does not exist')
    from clipdense.data.checking import check_data as check
    from clipdense.data.dataset_parts import KINDS, Kind

    if kind is not None and kind not in KINDS:
        raise InputError(f'--kind must be one of {", ".join(KINDS)}, got {kind!r}')
    report = check(path, cast('Kind | None', kind), batch_size)
    if as_json:
        print_json(asdict(report))
    else:
        about = (
            f'{report.kind} ({report.layout}), {counted(report.samples, "sample")}'
            if report.kind
            else 'unknown data'
        )
        print(f'{path}: {about}')
        for name, count in report.classes.items():
            print(f'  {name}: {count}')
        for line in report.remarks:
            print(f'note: {line}')
        for line in report.faults:
            print(f'problem: {line}')
        found = len(report.faults)
        print('no problems found' if not found else f'{found} problem{"s" if found > 1 else ""} found')
    if report.faults:
        raise typer.Exit(1)
