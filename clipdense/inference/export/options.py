"""What is exported and how; checked before anything heavy is imported."""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from clipdense.methods import get_method
from clipdense.utils.errors import InputError, MissingPackage, nearest
from clipdense.utils.files import check_output_folder, output_file

FORMATS = {'onnx': '.onnx', 'pt2': '.pt2', 'aoti': '.pt2'}
PARTS = ('image', 'text', 'pixels', 'classifier', 'segmenter', 'detector')
PRECISIONS = ('fp32', 'fp16')
OPSETS = range(18, 24)  # torch writes 18; newer ones by onnx's version converter
TOLERANCES = {'fp32': 1e-4, 'fp16': 5e-2}
_LARGEST = 8192  # pixels of a fixed side


@dataclass(frozen=True)
class ExportOptions:
    """Settings of an export.

    Args:
        precision: of the weights in the file: 'fp32' or 'fp16'.  Inputs and outputs are fp32 in both.
        size: (H, W) of the images in pixels, if it is to be fixed; otherwise any size where the model allows.
        opset: version of the ONNX operators, 18 to 23.
        tolerance: largest difference to torch, relative to the largest value of an output (at least 1); 1e-4
            for fp32 and 0.05 for fp16 by default.

    Raises:
        InputError: a value out of range.
    """

    precision: str = 'fp32'
    size: tuple[int, int] | None = None
    opset: int = OPSETS.start
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(
                f'precision must be fp32 or fp16, got {self.precision!r}.'
                + nearest(str(self.precision), PRECISIONS)
            )
        if self.size is not None:
            sides = tuple(self.size) if isinstance(self.size, list | tuple) else ()
            whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
            if len(sides) != 2 or not whole or not all(1 <= side <= _LARGEST for side in sides):
                raise InputError(
                    f'size must be height and width in pixels, 1 to {_LARGEST}, such as (448, 448), '
                    f'got {self.size!r}'
                )
        if not isinstance(self.opset, int) or self.opset not in OPSETS:
            raise InputError(
                f'opset must be {OPSETS.start} to {OPSETS[-1]}, got {self.opset!r}: older ones lack '
                'operators that the exporter of torch writes'
            )
        wanted = self.tolerance
        if wanted is not None and (not isinstance(wanted, int | float) or not isfinite(wanted) or wanted < 0):
            raise InputError(f'tolerance must be a number of at least 0, got {wanted!r}')

    @property
    def limit(self) -> float:
        """The largest difference that is accepted."""
        return TOLERANCES[self.precision] if self.tolerance is None else self.tolerance


def parse_size(text: str) -> tuple[int, int]:
    """``'448x640'`` -> height and width; ``'448'`` is a square.

    Raises:
        InputError: something else.
    """
    sides = text.lower().replace(',', 'x').split('x')
    try:
        numbers = [int(side) for side in sides]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise InputError(f"--size must be height x width in pixels, such as '448x640', got {text!r}")
    return numbers[0], numbers[-1]


def check_call(
    destination: str | Path, part: str | None, to: str | None, overwrite: bool, method: str | None = None
) -> tuple[Path, str]:
    """The file that will be written, and its format.

    Raises:
        InputError: an unknown part, method or format, a suffix of another format, a file that exists, or a
            folder that is not writable.
        MissingPackage: the format needs packages or a compiler that are not installed.
    """
    if part is not None and part not in PARTS:
        raise InputError(f'unknown part {part!r}; one of {", ".join(PARTS)}.{nearest(str(part), PARTS)}')
    if method is not None:
        get_method(method)
        if part not in (None, 'segmenter', 'detector'):
            raise InputError(f'a method applies to the part segmenter, not to {part}: remove it')
    if not isinstance(destination, str | Path) or not str(destination).strip():
        raise InputError(f'the destination must be a path such as model.onnx, got {destination!r}')
    path = Path(destination)
    to = _format(path, to)
    output_file(path)
    check_output_folder(path.parent)
    if path.exists() and not overwrite:
        raise InputError(f'{path} exists: choose another destination, or add --overwrite')
    _check_installed(to)
    return path, to


def _format(path: Path, to: str | None) -> str:
    if to is None:
        to = {'.onnx': 'onnx', '.pt2': 'pt2'}.get(path.suffix.lower())
        if to is None:
            raise InputError(
                f'the destination must end in .onnx or .pt2, or the format be given (--to), got {path}'
            )
    if to not in FORMATS:
        raise InputError(f'unknown format {to!r}; one of {", ".join(FORMATS)}.{nearest(str(to), FORMATS)}')
    if path.suffix.lower() != FORMATS[to]:
        raise InputError(f'a file of the format {to} must end in {FORMATS[to]}, got {path}')
    return to


def _check_installed(to: str) -> None:
    if to == 'onnx':
        missing = [one for one in ('onnx', 'onnxscript', 'onnxruntime') if not _installed(one)]
        if missing:
            raise MissingPackage(
                f'export to ONNX needs {", ".join(missing)}: pip install "clipdense[export]"'
            )
    if to == 'aoti' and compiler() is None:
        raise MissingPackage(
            'export with AOTInductor needs a C++ compiler, and none was found: install g++ '
            '(Debian: apt install g++), set CXX, or use --to pt2'
        )


def _installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def compiler() -> str | None:
    """The C++ compiler that AOTInductor uses: that of ``CXX``, else g++ or clang++."""
    named = os.environ.get('CXX')
    return shutil.which(named) if named else shutil.which('g++') or shutil.which('clang++')
