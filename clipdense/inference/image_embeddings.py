"""Embed the images of a folder or of shards into files, in parts that can be interrupted.

N: images, D: joint space.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.class_embeddings import image_tower_digest
from clipdense.clip.model import CLIP
from clipdense.data.faults import FaultBudget
from clipdense.data.image_text.shard_copies import each_shard, sources, with_copies
from clipdense.data.image_text.shard_files import intact_pairs, list_shards, open_shard
from clipdense.layers.precision import Precision, at_least_fp32, autocast, precision_name, resolve_precision
from clipdense.utils.errors import CheckpointError, InputError, item_error
from clipdense.utils.files import digest
from clipdense.utils.image_files import list_images
from clipdense.utils.image_io import read_image
from clipdense.utils.image_open import MAX_PIXELS
from clipdense.utils.jobs import Job, Part, refuse_incomplete
from clipdense.weights.io import read_weights, weights_digest, write_weights

FORMAT = 'clipdense image embeddings 1'
BLOCK = 10_000  # images of a folder in one file
_BATCH = 32
_THREADS = 4  # that read images while the model embeds others

Failed = Callable[[str, InputError], None]


class ImageEmbeddings(NamedTuple):
    """Names of N images, and their embeddings: (N, D) fp16, of length 1."""

    names: list[str]
    embeddings: np.ndarray

    @classmethod
    def load(cls, path: str | Path) -> ImageEmbeddings:
        """What ``embed_images`` has written: one file, or the folder.

        Raises:
            InputError: a folder that is not complete, or has no such files.
            CheckpointError: a damaged file, or one of another kind.
        """
        path = Path(path).expanduser()
        if not path.is_dir():
            return cls(*_read(path))
        refuse_incomplete(path)
        files = sorted(path.glob('*.safetensors'))
        if not files:
            raise InputError(f'{path} has no image embeddings: write them with `clipdense embed images`')
        parts = [_read(file) for file in files]
        return cls([name for names, _ in parts for name in names], np.concatenate([one for _, one in parts]))


class Counts(NamedTuple):
    """Images of a part that were embedded now, and that were left out."""

    embedded: int
    failed: int


def embed_images(
    clip: CLIP,
    source: str | Path,
    folder: str | Path,
    part: Part | None = None,
    precision: Precision = 'auto',
    max_pixels: int = MAX_PIXELS,
    on_error: Failed | None = None,
) -> Counts:
    """Write a file for each shard, or for each ``BLOCK`` images of a folder; those that exist are kept.

    Args:
        clip: the model.
        source: a folder of images, searched recursively, or shards as ``ImageTextShards`` takes them.
        folder: of the files.
        part: embed only every N-th shard or block.
        precision: see ``Predictor``.
        max_pixels: images with more pixels are left out.
        on_error: called with the name and the error of an image that is left out.

    Raises:
        InputError: no images, a shard that cannot be read, or a folder of another job.
    """
    device = next(clip.parameters()).device
    dtype = resolve_precision(precision, device)
    model = digest(image_tower_digest(clip), precision_name(dtype or torch.float32))
    units, facts = _units(source, Path(folder))
    mine = (part or Part()).of(units, 'file')
    job = Job(folder, 'embed images', {**facts, 'model': model[:16]}, part)
    embedded = failed = 0

    def fail(name: str, error: Exception) -> None:
        nonlocal failed
        failed += 1
        if on_error is not None:
            found = item_error(error, name)
            named = Path(name).name in str(found)  # a sample of a shard is bytes without a name
            on_error(name, found if named else InputError(f'{name}: {found}'))

    def write(unit: str, path: Path) -> str:
        nonlocal embedded
        damage: list[str] = []
        images = contents.get(path) or _of_shard(unit, fail, damage)
        found = list(_encoded(clip.eval(), images, dtype, max_pixels, fail))
        rows = [np.zeros((0, clip.embed_dim), np.float16), *(rows for _, rows in found)]
        names = [name for some, _ in found for name in some]
        _save(path, names, np.concatenate(rows), model)
        embedded += len(names)
        return ''.join(damage)

    contents = {unit.path: unit.images for unit in mine if unit.images}
    with job.running():
        each_shard(job, [(unit.name, unit.path) for unit in mine], 'embedding images', write)
        job.finish({'files': len(mine)})
    return Counts(embedded, failed)


class _Unit(NamedTuple):
    """What one file is made from: a shard, or a block of images with their names."""

    name: str
    path: Path
    images: list[tuple[str, Any]]


def _units(source: str | Path, folder: Path) -> tuple[list[_Unit], dict[str, Any]]:
    """The units of a source, and what a job depends on."""
    path = Path(source).expanduser()
    if not path.is_dir() or not _has_images(path):
        shards = list_shards(source)
        copies = with_copies(shards, folder)
        units = [_Unit(shard, copy.with_suffix('.safetensors'), []) for shard, copy in copies]
        return units, sources(shards)
    images: list[tuple[str, Any]] = [(one.relative_to(path).as_posix(), one) for one in list_images(path)]
    blocks = [images[first : first + BLOCK] for first in range(0, len(images), BLOCK)]
    units = [
        _Unit(f'{source}, block {at}', folder / f'images-{at:06d}.safetensors', block)
        for at, block in enumerate(blocks)
    ]
    names = digest(*(name.encode('utf-8', 'surrogateescape') for name, _ in images))
    return units, {'number of images': len(images), 'list of images': names[:16], 'block': BLOCK}


def _has_images(folder: Path) -> bool:
    """Whether a folder is one of images; without any it may have shards."""
    shards = any(folder.glob('*.tar')) or any(folder.glob('*.tar.gz')) or any(folder.glob('*.tgz'))
    return not shards


def _of_shard(
    shard: str, fail: Callable[[str, Exception], None], damage: list[str]
) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of the images of a shard; samples without an image are reported."""
    faults = FaultBudget('samples', 1.0, log=False)
    with open_shard(shard) as stream:
        for pair in intact_pairs(stream, (), faults, damage.append):
            yield pair.name, pair.image
    for _ in range(faults.lost):
        fail(shard, InputError(f'{faults.last}: {faults.lost} samples of the shard cannot be used'))


def _encoded(
    clip: CLIP,
    images: Iterable[tuple[str, Any]],
    dtype: torch.dtype | None,
    max_pixels: int,
    fail: Callable[[str, Exception], None],
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and embeddings of batches of the images that can be read."""
    device = next(clip.parameters()).device

    def read(item: tuple[str, Any]) -> Tensor | Exception:
        try:
            return clip.preprocess(read_image(item[1], max_pixels))
        except Exception as error:  # of one image: reported, and the rest is done
            return error

    rest = iter(images)
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(rest, _BATCH)):
            done = list(zip(batch, pool.map(read, batch), strict=True))
            for (name, _), one in done:
                if isinstance(one, Exception):
                    fail(name, one)
            good = [(name, one) for (name, _), one in done if isinstance(one, Tensor)]
            if good:
                pixels = torch.stack([one for _, one in good]).to(device)
                with torch.no_grad(), autocast(device, dtype):
                    found = F.normalize(at_least_fp32(clip.encode_image(pixels)), dim=-1)
                yield [name for name, _ in good], found.cpu().numpy().astype(np.float16)


def _save(path: Path, names: Sequence[str], embeddings: np.ndarray, model: str) -> None:
    text = json.dumps(list(names)).encode('ascii')  # undecodable names are escaped
    tensors = {
        'embeddings': torch.from_numpy(embeddings),
        'names': torch.frombuffer(bytearray(text), dtype=torch.uint8),
    }
    metadata = {'format': FORMAT, 'sha256': weights_digest(tensors), 'model': model}
    write_weights(path, tensors, metadata)


def _read(path: Path) -> tuple[list[str], np.ndarray]:
    file = read_weights(path)
    if file.metadata.get('format') != FORMAT or not {'names', 'embeddings'} <= set(file.tensors):
        raise CheckpointError(f'{path} has no image embeddings: write them with `clipdense embed images`')
    if file.metadata.get('sha256') != weights_digest(file.tensors):
        raise CheckpointError(f'{path} is damaged: remove it, and run `clipdense embed images` again')
    return json.loads(bytes(file.tensors['names'].numpy())), file.tensors['embeddings'].numpy()
