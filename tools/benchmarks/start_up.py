"""How long it takes until something can be typed, and until the first mask: fresh interpreters in turn."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

from clipdense.clip.checkpoint import save
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize

from .harness import Found, Options, Row, cpu_seconds, interleave

HELP = 'import sys; sys.argv = ["clipdense", "--help"]; from clipdense.cli import main; main()'
MASK = """
import numpy
from clipdense.inference.segmenter import Segmenter
image = numpy.zeros((64, 64, 3), numpy.uint8)
Segmenter.from_pretrained({file!r}, cache=False)(image, ['cat', 'dog'])
"""


def imports(options: Options) -> Found:
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


def start_up(options: Options) -> Found:
    """Imports for inference and the first mask of a tiny CLIP against ``import torch``, CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'tiny.safetensors')
        save(tiny_clip(), file)
        programs = {
            'import torch': 'import torch',
            'import clipdense': 'import clipdense',
            'import clipdense.inference.segmenter': 'import clipdense.inference.segmenter',
            'import clipdense.inference.classifier': 'import clipdense.inference.classifier',
            'first mask of a tiny CLIP, 64 pixels': MASK.format(file=str(file)),
        }
        seconds = in_turn(programs, replace(options, repeats=max(options.repeats, 5)).repeats)
    torch_alone = median(seconds.pop('import torch'))
    rows = [Row(label, median(found), torch_alone, 'CPU-s') for label, found in seconds.items()]
    rows.sort(key=lambda row: row.label != 'import clipdense.inference.segmenter')
    times = {f'{row.label} / import torch': f'{row.ours / row.peer:.2f}' for row in rows}
    return rows, {'peer': 'import torch', **times}


def tiny_clip() -> object:
    """A CLIP of 2 layers on 64 pixels, with the vocabulary of the published ones."""
    image = VitSize(image_size=64, patch_size=16, width=32, layers=2, num_heads=2, mlp_width=32, embed_dim=16)
    text = TextSize(width=32, layers=2, num_heads=2, mlp_width=32, embed_dim=16)
    return build_clip(ClipSize(image, text))


def in_turn(programs: Mapping[str, str], repeats: int, warm_up: int = 1) -> dict[str, list[float]]:
    """CPU seconds (user and system) of fresh interpreters, one after another, again and again."""
    seconds: dict[str, list[float]] = {label: [] for label in programs}
    for turn in range(warm_up + repeats):
        for label, code in programs.items():
            before = cpu_seconds()
            interpreter(code)()
            if turn >= warm_up:
                seconds[label].append(cpu_seconds() - before)
    return seconds


def interpreter(code: str) -> Callable[[], None]:
    """Runs ``code`` in a fresh one.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return lambda: (
        subprocess.run([sys.executable, '-c', code], check=True, stdout=subprocess.DEVNULL) and None
    )
