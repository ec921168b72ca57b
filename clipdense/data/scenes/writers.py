"""Write scenes as PASCAL VOC, COCO and webdataset shards, which the readers of real datasets can read.

The same arguments give the same bytes.  A folder appears only when it is complete.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...utils.errors import InputError
from ...utils.files import atomic_write
from ...utils.image_io import mask_to_image
from ...utils.progress import track
from .combinations import SPLITS
from .formats import CocoWriter, ImageRecord, ShardWriter, VocWriter, Writer
from .scene import Scenes

IGNORED = 255
_MARKER = 'scenes.json'  # only folders with this file are overwritten
_CHUNK = 64  # images that a worker draws at a time


@dataclass(frozen=True)
class ImageSet:
    """A named set of images."""

    name: str  # of the list, and prefix of the image names
    count: int
    shown: tuple[str, ...]  # splits whose classes occur
    labeled: tuple[str, ...]  # splits with masks and boxes; pixels of the others are ignored


def standard_sets(num_train: int, num_val: int) -> list[ImageSet]:
    """A training set of base and novel classes, with labels for base only, and a validation set per split."""
    train = ImageSet('train', num_train, ('base', 'novel'), ('base',))
    return [train, *(ImageSet(f'val_{split}', num_val, (split,), (split,)) for split in SPLITS)]


def write_scenes(
    out: str | Path,
    difficulty: str = 'standard',
    num_train: int = 5000,
    num_val: int = 200,
    seed: int = 0,
    image_size: int | None = None,
    overwrite: bool = False,
    workers: int = 0,
) -> None:
    """Write ``out/voc``, ``out/coco`` and ``out/shards``.

    Args:
        out: folder.
        difficulty, seed, image_size: as in ``Scenes``.
        num_train: training images.
        num_val: validation images for each split.
        overwrite: replace scenes written before.
        workers: number of drawing processes; 0 draws in this process.

    Raises:
        InputError: the folder contains other files, or cannot be written.
    """
    out, scenes, sets = Path(out), Scenes(difficulty, seed, image_size), standard_sets(num_train, num_val)
    if out.exists() and (not out.is_dir() or any(not path.name.startswith('.') for path in out.iterdir())):
        if not (out / _MARKER).is_file():
            raise InputError(
                f'{out} exists and does not contain generated scenes; choose a new or an empty folder'
            )
        if not overwrite:
            raise InputError(
                f'{out} already contains scenes; choose a new folder, or pass overwrite (--overwrite)'
            )
    facts: dict[str, Any] = {'difficulty': difficulty, 'seed': seed, 'image_size': scenes.image_size}
    facts |= {'images': {one.name: one.count for one in sets}, 'classes': scenes.splits}
    writers = {out / 'voc': VocWriter, out / 'coco': CocoWriter, out / 'shards': ShardWriter}
    _write(scenes, sets, writers, workers)
    with atomic_write(out / _MARKER, 'w') as file:
        file.write(json.dumps(facts, indent=1) + '\n')


def write_voc(scenes: Scenes, folder: str | Path, sets: Sequence[ImageSet], workers: int = 0) -> None:
    """Write PASCAL VOC: see ``VocWriter``."""
    _write(scenes, sets, {Path(folder): VocWriter}, workers)


def write_coco(scenes: Scenes, folder: str | Path, sets: Sequence[ImageSet], workers: int = 0) -> None:
    """Write COCO: see ``CocoWriter``."""
    _write(scenes, sets, {Path(folder): CocoWriter}, workers)


def write_shards(scenes: Scenes, folder: str | Path, sets: Sequence[ImageSet], workers: int = 0) -> None:
    """Write webdataset shards: see ``ShardWriter``."""
    _write(scenes, sets, {Path(folder): ShardWriter}, workers)


def encode_image(scenes: Scenes, task: tuple[ImageSet, int]) -> ImageRecord:
    """Draw and encode one image of a set."""
    one, index = task
    scene = scenes.draw(index, one.shown, stream=one.name)
    known = set(scenes.indices(one.labeled))
    labels = np.array([0, *(at + 1 if at in known else IGNORED for at in range(len(scenes.class_names)))])
    objects = [
        _describe(int(class_id), box, scene.mask == class_id + 1)
        for class_id, box in zip(scene.class_ids, scene.boxes, strict=True)
        if class_id in known
    ]
    kept = np.isin(scene.class_ids, list(known))
    own = scenes.caption(index, scene.class_ids[kept], scene.boxes[kept], scene.ground, one.name, variant=1)
    return ImageRecord(
        set_name=one.name,
        name=f'{one.name}_{index:06d}',
        size=scenes.image_size,
        jpeg=_encoded(Image.fromarray(scene.image), 'JPEG', quality=95, subsampling=0),
        mask=_encoded(mask_to_image(labels[scene.mask]), 'PNG'),
        caption=scene.caption,
        class_names=[scenes.class_names[at] for at in scene.class_ids],
        objects=objects,
        own_caption=own if objects else '',
    )


def _describe(class_id: int, box: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    return {'class_id': class_id, 'box': box.tolist(), 'area': int(mask.sum()), 'counts': run_lengths(mask)}


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of an (H, W) mask: column by column, zeros first."""
    flat = mask.ravel(order='F')
    edges = np.flatnonzero(np.diff(flat, prepend=False)) if flat.size else np.zeros(0, int)
    return np.diff([0, *edges, flat.size]).tolist()


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _write(scenes: Scenes, sets: Sequence[ImageSet], kinds: dict[Path, type[Writer]], workers: int) -> None:
    """Draw each image once and pass it to every writer; each has its own folder."""
    tasks = [(one, index) for one in sets for index in range(one.count)]
    with ExitStack() as stack:
        writers: list[Writer] = []
        for folder, kind in kinds.items():
            jpeg_folder = next(
                (one.folder / one.images for one in writers if isinstance(one, VocWriter)), None
            )
            writers.append(kind(stack.enter_context(_staged(folder)), scenes, jpeg_folder))
        encode = partial(encode_image, scenes)
        if workers:
            pool = stack.enter_context(ProcessPoolExecutor(workers))
            images: Any = pool.map(encode, tasks, chunksize=_CHUNK)
        else:
            images = map(encode, tasks)
        for image in track(images, 'writing scenes', total=len(tasks)):
            for writer in writers:
                writer.add(image)
        for writer in writers:
            writer.finish()


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A temporary folder next to ``folder`` that replaces it at the end, if there was no error."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f'.{folder.name}.', dir=folder.parent) as temporary:
            fresh, old = Path(temporary, 'new'), Path(temporary, 'old')
            fresh.mkdir()  # with default permissions, unlike the temporary folder
            yield fresh
            if folder.exists():
                os.replace(folder, old)
            os.replace(fresh, folder)
    except OSError as error:
        raise InputError(f'cannot write {folder}: {error.strerror or error}') from error
