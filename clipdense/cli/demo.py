"""``clipdense demo``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.device_names import check_precision
from clipdense.utils.errors import InputError

from .early import check_device, check_weights
from .options import Device, Precision
from .photographs import SCALES, SHORT_SIDE, TEMPLATES, WEIGHTS, installed_photographs

if TYPE_CHECKING:
    from clipdense.demo.predictions import Source

DemoWeights = Annotated[
    list[str] | None,
    typer.Option(
        '--weights',
        '-w',
        help='A name from `clipdense models`, or a file. May be repeated. [default: embedded]',
    ),
]


def demo(
    weights: DemoWeights = None,
    device: Device = None,
    precision: Precision = 'auto',
    host: Annotated[
        str, typer.Option(help='Address to listen on; others than the default let other machines in.')
    ] = '127.0.0.1',
    port: Annotated[int, typer.Option(min=0, max=65535, help='Port; 0: any free one.')] = 7860,
    max_pixels: Annotated[
        int, typer.Option('--max-pixels', min=1, help='Refuse images with more pixels, before decoding.')
    ] = 50_000_000,
    max_megabytes: Annotated[int, typer.Option('--max-megabytes', min=1, help='Refuse larger files.')] = 32,
    browser: Annotated[bool, typer.Option('--browser', help='Open the page in the browser.')] = False,
) -> None:
    """Serve a web page: add an image, type class names, see masks or boxes. Works offline; stop with Ctrl-C.

    Needs the extra `demo`. Weights of segmenters, detectors and plain CLIPs are offered together; two of
    them, or two methods of one, can be compared.

    Example: `clipdense demo --weights embedded --weights ViT-B-16/openai`
    """
    from clipdense.demo.server import Address, check_installed

    check_installed()
    names = list(dict.fromkeys(weights or [WEIGHTS]))
    for name in names:
        check_weights(name)
    check_device(device)
    check_precision(precision)
    address = Address(host, port).free()
    if not address.local:
        typer.echo(
            f'clipdense: warning: other machines reach the page at {host}:{address.port}, without a password '
            'and without encryption',
            err=True,
        )
    typer.echo(f'clipdense: loading {", ".join(names)}', err=True)
    from clipdense.demo.predictions import Engine
    from clipdense.demo.server import running, wait_for_interrupt
    from clipdense.demo.uploads import Limits

    engine = Engine([source(name) for name in names], device, precision)  # type: ignore[arg-type]  # checked by the predictors
    limits = Limits(max_pixels, max_megabytes)
    with running(engine, address, limits, _examples(), browser) as url:
        print(f'{url}  (Ctrl-C stops)', flush=True)
        wait_for_interrupt()


def source(weights: str) -> Source:
    """Weights with the settings of ``quickstart`` for the embedded model."""
    from clipdense.demo.predictions import Source
    from clipdense.tasks.options import SegmentationOptions

    if weights != WEIGHTS:
        return Source(weights)
    return Source(weights, SegmentationOptions(short_side=SHORT_SIDE, window=0, scales=SCALES), TEMPLATES)


def _examples() -> list[tuple[Path, Sequence[str]]]:
    """The photographs of ``quickstart``; none if their package is missing."""
    try:
        return [(one.file, one.names) for one in installed_photographs()]
    except InputError:
        return []
