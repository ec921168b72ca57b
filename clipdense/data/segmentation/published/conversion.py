"""Convert many small files: each is written atomically, and existing files are skipped.

Source files are only read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipdense.data.run_lengths import check_mask, to_pixels
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write
from clipdense.utils.image_io import mask_to_image, read_image, read_mask
from clipdense.utils.progress import track

from . import labels

_CHUNK = 8  # files passed to a process at once
_SHORT_SIDE = 512  # pixels, of ADE20K's images with 847 classes


class Job(NamedTuple):
    """A target file and the function that makes its contents; ``make`` must be picklable."""

    target: Path
    make: Callable[[], bytes]


@dataclass
class Report:
    """Result of a conversion."""

    made: int = 0
    kept: int = 0  # existed before
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f'{self.made} files written, {self.kept} already existed, {len(self.faults)} failed']
        return '\n'.join([*lines, *(f'  {fault}' for fault in self.faults)])


def run_jobs(jobs: Sequence[Job], description: str, workers: int = 0) -> Report:
    """Write the files that do not exist yet; a failure does not stop the others.

    Args:
        jobs: which files.
        description: for the progress bar.
        workers: number of additional processes.

    Raises:
        InputError: a file cannot be written.
    """
    todo = [job for job in jobs if not job.target.is_file()]
    report = Report(kept=len(jobs) - len(todo))
    with _mapper(workers) as mapped:
        contents = track(mapped(_made, todo), description, total=len(todo))
        for job, made in zip(todo, contents, strict=True):
            if isinstance(made, str):
                report.faults.append(f'{job.target.name}: {made}')
                continue
            with atomic_write(job.target) as file:
                file.write(made)
            report.made += 1
    return report


@contextmanager
def _mapper(workers: int) -> Iterator[Callable]:
    if not workers:
        yield map
        return
    with ProcessPoolExecutor(workers) as pool:
        try:
            yield partial(pool.map, chunksize=_CHUNK)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _made(job: Job) -> bytes | str:
    """The contents, or the error message."""
    try:
        return job.make()
    except (ValueError, KeyError, OSError) as error:
        return str(error)


def convert_mask(source: Path, table: np.ndarray) -> bytes:
    """A relabeled mask file, as PNG.

    Raises:
        InputError: a broken mask, or a value that is not in the table.
    """
    return encode_mask(_relabeled(source, read_mask(source), table))


def convert_mat(source: Path, keys: Sequence[str], table: np.ndarray | None = None) -> bytes:
    """A mask in a MATLAB file, relabeled if there is a table, as PNG.

    Args:
        source: of PASCAL-Context (``LabelMap``) or of the Semantic Boundaries Dataset
            (``GTcls.Segmentation``).
        keys: nested names of the mask in the file.
        table: from value to label.

    Raises:
        InputError: a broken file, one without this mask, or a value that is not in the table.
    """
    from scipy.io import loadmat

    try:
        found: Any = loadmat(source, squeeze_me=True, struct_as_record=False)
        for key in keys:
            found = found[key] if isinstance(found, dict) else getattr(found, key)
        values = np.atleast_2d(found).astype(np.int64)
    except Exception as error:  # scipy raises many kinds of errors on damaged files
        raise InputError(f'cannot read a mask under {".".join(keys)} in {source}: {error}') from error
    return encode_mask(values if table is None else _relabeled(source, values, table))


def convert_annotations(
    name: str, size: tuple[int, int], annotations: Sequence[Mapping[str, Any]], table: np.ndarray
) -> bytes:
    """Run-length masks of one image, later ones over earlier ones, as PNG.

    Args:
        name: of the image, for messages.
        size: (H, W).
        annotations: each with a ``category_id`` and a ``segmentation`` in COCO's layouts.
        table: from category to label; pixels without a mask have category 0.

    Raises:
        InputError: masks that are missing, damaged or of another size, or a category not in the table.
    """
    values = np.zeros(size, np.int64)
    for number, annotation in enumerate(annotations):
        check_mask(annotation.get('segmentation'), f'{name}, annotation {number}', size)
        values[to_pixels(annotation['segmentation'], size).astype(bool)] = annotation['category_id']
    return encode_mask(_relabeled(Path(name), values, table))


def convert_ade20k_mask(source: Path) -> bytes:
    """ADE20K's ``*_seg.png`` -> 847 classes, 65535 elsewhere, the shorter side at most 512 pixels, as TIFF.

    Source: MaskFormer, datasets/prepare_ade20k_full_sem_seg.py.
    """
    import cv2

    colors = np.asarray(read_image(source)).astype(np.int64)  # (H, W, 3)
    numbers = colors[..., 0] // 10 * 256 + colors[..., 1]
    classes = labels.ade20k_full()[numbers].astype(np.uint16)
    height, width = _shrunk(classes.shape[:2])
    if (height, width) != classes.shape:
        classes = cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST)
    return _encode(Image.fromarray(classes), 'TIFF')


def shrink_ade20k_image(source: Path) -> bytes:
    """An image of ADE20K with the shorter side at most 512 pixels, as JPEG."""
    import cv2

    pixels = np.asarray(read_image(source))
    height, width = _shrunk(pixels.shape[:2])
    if (height, width) != pixels.shape[:2]:
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    return _encode(Image.fromarray(pixels), 'JPEG')


def copy_file(source: Path) -> bytes:
    """The unchanged contents of a file."""
    return source.read_bytes()


def encode_mask(mask: np.ndarray) -> bytes:
    """(H, W) class indices as a palette PNG."""
    return _encode(mask_to_image(mask), 'PNG')


def _relabeled(source: Path, values: np.ndarray, table: np.ndarray) -> np.ndarray:
    try:
        return labels.relabel(values, table)
    except ValueError as error:
        raise InputError(f'{source} has {error}') from error


def _shrunk(size: tuple[int, ...]) -> tuple[int, int]:
    height, width = size
    if min(size) <= _SHORT_SIDE:
        return height, width
    if width >= height:
        return _SHORT_SIDE, round(width / height * _SHORT_SIDE)
    return round(height / width * _SHORT_SIDE), _SHORT_SIDE


def _encode(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
