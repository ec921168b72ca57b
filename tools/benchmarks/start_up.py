"""How long it takes until something can be typed: fresh interpreters in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from statistics import median

from .harness import Found, Options, Row, interleave

HELP = 'import sys; sys.argv = ["clipdense", "--help"]; from clipdense.cli import main; main()'


def start_up(options: Options) -> Found:
    """``import clipdense`` and ``clipdense --help`` against ``import open_clip``, seconds."""
    peer = interpreter('import open_clip')
    imported = interleave(interpreter('import clipdense'), peer, options)
    helped = interleave(interpreter(HELP), peer, options)
    bare, _ = interleave(interpreter('pass'), lambda: None, options)
    rows = [
        Row('import', median(imported[0].wall), median(imported[1].wall), 's'),
        Row('import, CPU time', median(imported[0].cpu), median(imported[1].cpu), 'CPU-s'),
        Row('--help against import', median(helped[0].wall), median(helped[1].wall), 's'),
        Row('--help against import, CPU time', median(helped[0].cpu), median(helped[1].cpu), 'CPU-s'),
    ]
    return rows, {'an interpreter alone, in each of these': f'{median(bare.wall):.3f} s'}


def interpreter(code: str) -> Callable[[], None]:
    """Runs ``code`` in a fresh one.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return lambda: (
        subprocess.run([sys.executable, '-c', code], check=True, stdout=subprocess.DEVNULL) and None
    )
