"""The ``clipdense`` program: its commands, exit statuses and error messages."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from clipdense.utils.errors import InputError, one_line
from clipdense.utils.packages import missing_package

from . import (
    adapt,
    answer,
    benchmarks,
    caption,
    compare,
    data,
    demo,
    detect,
    doctor,
    embed_images,
    evaluate,
    export,
    filtering,
    label,
    predict,
    probe,
    pseudo_label,
    quickstart,
    search,
    segment,
    train,
    vocab,
    weights,
)
from .method_commands import EmbedGroup
from .once import Command

BAD_INPUT = 2
INTERRUPTED = 128 + signal.SIGINT

app = typer.Typer(
    name='clipdense',
    help='Open-vocabulary classification, segmentation and detection with CLIP, and training of its models.',
    epilog='`--verbose` prints the traceback of an error. Each command has a --help page with an example.',
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode='markdown',
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        from clipdense import __version__

        print(f'clipdense {__version__}')
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option('--version', callback=_print_version, is_eager=True, help='Print the version and exit.'),
    ] = False,
) -> None: ...


for command in (
    quickstart.quickstart,
    segment.segment,
    predict.classify,
    detect.detect,
    caption.caption,
    answer.answer,
    label.label,
    compare.compare,
    demo.demo,
    search.search,
    adapt.adapt,
    train.scenes,
    train.nouns,
    data.init,
    data.check_data,
    train.train,
    evaluate.test,
    probe.probe,
    benchmarks.prepare,
    benchmarks.bench,
    benchmarks.reproduce,
    weights.models,
    weights.methods,
    weights.configs,
    weights.convert,
    export.export,
    doctor.doctor,
):
    app.command(cls=Command)(command)
app.command('filter', cls=Command)(filtering.filter_shards)
app.command('pseudo-label', cls=Command)(pseudo_label.pseudo_label)
app.add_typer(vocab.app)
embed = typer.Typer(
    name='embed',
    cls=EmbedGroup,
    callback=predict.embed,
    invoke_without_command=True,
    rich_markup_mode='markdown',
)
embed.command(cls=Command)(embed_images.images)
app.add_typer(embed)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with a status: 0 success, 1 failure, 2 invalid input, 130 interrupted.

    An error is printed as one line; ``--verbose`` adds the traceback.
    """
    _never_fail_to_print()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    verbose = '--verbose' in arguments
    if not verbose:
        warnings.formatwarning = _one_line
    try:
        app([argument for argument in arguments if argument != '--verbose'], prog_name='clipdense')
    except InputError as error:
        _fail(one_line(error), verbose, BAD_INPUT)
    except ModuleNotFoundError as error:
        _fail(missing_package(error.name or str(error)), verbose, BAD_INPUT)
    except KeyboardInterrupt:
        _fail('interrupted', verbose, INTERRUPTED)
    except SystemExit as ended:  # typer ends the program itself
        if ended.code == INTERRUPTED:
            _fail('interrupted; files that were finished are kept', verbose, INTERRUPTED)
        raise
    except BrokenPipeError:  # the reader of the output, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        hint = '' if verbose else ' (add --verbose for the traceback)'
        _fail(f'unexpected {type(error).__name__}: {one_line(error)}{hint}', verbose, 1)


def _never_fail_to_print() -> None:
    """Escape characters that the encoding of the terminal or the pipe lacks, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def _fail(message: str, verbose: bool, status: int) -> None:
    if verbose:
        traceback.print_exc()
    print(f'clipdense: {message}', file=sys.stderr)
    sys.exit(status)


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    return f'clipdense: warning: {message}\n'
