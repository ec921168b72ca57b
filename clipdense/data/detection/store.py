"""Teacher embeddings of regions on disk, one store per dataset, larger than memory.

N: images, R: maximum number of regions per image, D: joint space.

A folder with ``boxes.npy`` (N, R, 4) fp32 in original pixels, ``embeddings.npy`` (N, R, D) fp16,
``count.npy`` (N,) int32, -1 for unfinished images, and ``store.json`` with the teacher, the proposals and
the dataset.  The files are memory-mapped.  A count is written after its data has reached the disk, so that
an interruption loses a few images only.
"""

from __future__ import annotations

import json
import operator
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write, digest
from clipdense.utils.jobs import refuse_incomplete
from clipdense.utils.json_files import read_json

_FORMAT = 'clipdense region embeddings 1'
_HEADER = 'store.json'
_AGAIN = 'create the store again'
_UNDONE = -1
_MERGED = 256  # images that are copied at a time


class Regions(NamedTuple):
    """The regions of one image."""

    boxes: NDArray[np.float32]  # (r, 4) x1, y1, x2, y2 in original pixels, r <= R
    embeddings: NDArray[np.float16]  # (r, D) unit rows


@dataclass(frozen=True)
class StoreFacts:
    """Origin of a store's regions; two stores are interchangeable if all fields are equal.

    Args:
        teacher: digest of the image tower's weights and its preprocessing.
        proposals: digest of the detector that proposed the boxes.
        crops: sizes of the crops relative to the boxes.
        images: digest of the images' ids and sizes.
        regions: R.
        width: D.
    """

    teacher: str
    proposals: str
    crops: tuple[float, ...]
    images: str
    regions: int
    width: int


def images_digest(images: Iterable[tuple[int, int, int]]) -> str:
    """Digest of ids, widths and heights in any order."""
    return digest('images', *(json.dumps(one) for one in sorted(images)))


class RegionStore:
    """A store on disk.  A store opened for reading can be pickled to worker processes.

    Args:
        folder: folder of the store.
        writable: open for writing.

    Raises:
        InputError: no store, or a damaged or truncated one.
    """

    def __init__(self, folder: str | Path, writable: bool = False) -> None:
        self.folder, self._writable = Path(folder), writable
        header = _read_header(self.folder)
        try:
            self.facts = StoreFacts(**{**header['facts'], 'crops': tuple(header['facts']['crops'])})
            self.image_ids: tuple[int, ...] = tuple(map(operator.index, header['image_ids']))
        except (KeyError, TypeError) as error:
            raise InputError(
                f'{self.folder / _HEADER} is damaged ({error!r}); create the store again'
            ) from error
        self._place = {image_id: place for place, image_id in enumerate(self.image_ids)}
        self._open()

    @classmethod
    def create(cls, folder: str | Path, facts: StoreFacts, image_ids: Sequence[int]) -> RegionStore:
        """Create a store, or open an unfinished one for writing.

        Raises:
            InputError: the folder contains another store, or the disk is too small for it.
        """
        folder = Path(folder)
        if (folder / _HEADER).is_file():
            store = cls(folder, writable=True)
            store.check(facts)
            return store
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f'{folder} exists and does not contain region embeddings; choose a new folder')
        folder.mkdir(parents=True, exist_ok=True)
        count = len(image_ids)
        _check_space(folder, facts, count)
        try:
            for name, (kind, shape) in _layout(facts, count).items():
                made = open_memmap(folder / f'{name}.npy', mode='w+', dtype=kind, shape=shape)
                if name == 'count':
                    made[:] = _UNDONE
                made.flush()
        except OSError as error:
            raise InputError(f'cannot create {folder}: {error.strerror or error}') from error
        header = {'format': _FORMAT, 'facts': asdict(facts), 'image_ids': list(map(int, image_ids))}
        with atomic_write(folder / _HEADER, 'w') as file:  # written last: marks a valid store
            json.dump(header, file)
        return cls(folder, writable=True)

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def unfinished(self) -> list[int]:
        """Ids of unfinished images."""
        return [self.image_ids[place] for place in np.flatnonzero(self._count == _UNDONE)]

    def write(self, found: Mapping[int, Regions]) -> None:
        """Add images; they are marked as finished after they are on disk.

        Raises:
            InputError: embeddings that are not finite; nothing is written.
        """
        for image_id, regions in found.items():
            if not np.isfinite(regions.embeddings).all():
                raise InputError(
                    f'the embeddings of the regions of image id {image_id} are NaN or infinite: the weights '
                    'of the teacher are damaged, or half precision overflows'
                )
        for image_id, regions in found.items():
            place, kept = self._place[image_id], min(len(regions.boxes), self.facts.regions)
            self._boxes[place, :kept] = regions.boxes[:kept]
            self._embeddings[place, :kept] = regions.embeddings[:kept]
        self._boxes.flush()
        self._embeddings.flush()
        for image_id, regions in found.items():
            self._count[self._place[image_id]] = min(len(regions.boxes), self.facts.regions)
        self._count.flush()

    def __getitem__(self, image_id: int) -> Regions:
        """The regions of an image, as views of the files.

        Raises:
            InputError: an unknown or unfinished image, or regions that are damaged.
        """
        place = self._place.get(image_id)
        if place is None:
            raise InputError(
                f'{self.folder} has no regions for image id {image_id}; it belongs to other images'
            )
        count = int(self._count[place])
        if count == _UNDONE:
            raise InputError(f'{self.folder} is incomplete; run `clipdense embed regions` again')
        boxes, embeddings = self._boxes[place, :count], self._embeddings[place, :count]
        if not 0 <= count <= self.facts.regions or not np.isfinite(boxes).all():
            raise InputError(f'{self.folder}: the regions of image id {image_id} are damaged; {_AGAIN}')
        if not np.isfinite(embeddings).all() or not embeddings.any(axis=1).all():
            raise InputError(
                f'{self.folder}: an embedding of image id {image_id} is NaN, infinite or zero; {_AGAIN}'
            )
        return Regions(boxes, embeddings)

    @classmethod
    def merge(cls, folder: str | Path, parts: Sequence[str | Path], image_ids: Sequence[int]) -> RegionStore:
        """Join the stores of parts into one that equals, to the bit, a store that was made at once.

        Nothing is left of an interrupted merge but a folder that the next one replaces.  The stores of the
        parts are removed.

        Args:
            folder: of the new store.
            parts: folders of complete stores of the same facts.
            image_ids: of the new store, in its order; each is in one part.

        Raises:
            InputError: a part that is damaged or incomplete, or a full disk.
        """
        folder = Path(folder)
        if not (folder / _HEADER).exists():
            unfinished = folder / 'merging'
            shutil.rmtree(unfinished, ignore_errors=True)
            stores = [cls(part) for part in parts]
            whole = cls.create(unfinished, stores[0].facts, image_ids)
            for store in stores:
                store.check(whole.facts)
                for first in range(0, len(store), _MERGED):
                    whole.write({one: store[one] for one in store.image_ids[first : first + _MERGED]})
            if whole.unfinished:
                raise InputError(f'{folder} cannot be merged: {len(whole.unfinished)} images are missing')
            for name in (*_layout(whole.facts, 0), None):  # the header last
                file = _HEADER if name is None else f'{name}.npy'
                os.replace(unfinished / file, folder / file)
            unfinished.rmdir()
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
        return cls(folder)

    def check(self, facts: StoreFacts) -> None:
        """Check that the store has these facts.

        Raises:
            InputError: with the first difference.
        """
        says = {
            'teacher': 'another teacher (or preprocessing)',
            'proposals': 'proposals of another detector',
            'crops': 'other crops',
            'images': 'other images',
            'regions': f'{self.facts.regions} regions per image',
            'width': f'{self.facts.width} values per region',
        }
        for name, what in says.items():
            if getattr(self.facts, name) != getattr(facts, name):
                raise InputError(f'{self.folder} contains embeddings for {what}; choose a new folder')

    def check_images(self, images: Iterable[tuple[int, int, int]]) -> None:
        """Check that every image is in the store and finished.

        Args:
            images: id, width and height of the required images.

        Raises:
            InputError: other images, or unfinished ones.
        """
        images = list(images)
        unknown = [image_id for image_id, *_ in images if image_id not in self._place]
        if unknown or (len(images) == len(self) and images_digest(images) != self.facts.images):
            raise InputError(
                f'{self.folder} belongs to other images ({len(unknown)} of {len(images)} are not in it); '
                'create embeddings for these with `clipdense embed regions`'
            )
        if self.unfinished:
            raise InputError(
                f'{self.folder} is incomplete: {len(self.unfinished)} of {len(self)} images are missing; '
                'run `clipdense embed regions` again to continue'
            )

    def _open(self) -> None:
        mode = 'r+' if self._writable else 'r'
        parts = {}
        for name, (kind, shape) in _layout(self.facts, len(self.image_ids)).items():
            path = self.folder / f'{name}.npy'
            try:
                parts[name] = open_memmap(path, mode=mode)
            except (OSError, ValueError) as error:
                raise InputError(
                    f'{path} is damaged or truncated ({error}); create the store again'
                ) from error
            if parts[name].shape != shape or parts[name].dtype != kind:
                raise InputError(f'{path} does not match its {_HEADER}; create the store again')
        self._boxes, self._embeddings, self._count = parts['boxes'], parts['embeddings'], parts['count']

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if not isinstance(value, np.memmap)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def _check_space(folder: Path, facts: StoreFacts, images: int) -> None:
    """A memory-mapped file on a full disk would end the process without a message."""
    sizes = [prod(shape) * np.dtype(kind).itemsize for kind, shape in _layout(facts, images).values()]
    free = shutil.disk_usage(folder).free
    if sum(sizes) > free:
        raise InputError(
            f'not enough disk space for {folder}: {images} images with {facts.regions} regions need '
            f'{sum(sizes) / 1e9:.1f} GB, {free / 1e9:.1f} GB are free'
        )


def _layout(facts: StoreFacts, images: int) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    return {
        'boxes': (np.float32, (images, facts.regions, 4)),
        'embeddings': (np.float16, (images, facts.regions, facts.width)),
        'count': (np.int32, (images,)),
    }


def _read_header(folder: Path) -> dict[str, Any]:
    if not (folder / _HEADER).exists():
        refuse_incomplete(folder)
        raise InputError(
            f'{folder} does not contain region embeddings; create them with `clipdense embed regions`'
        )
    try:
        header = read_json(folder / _HEADER)
    except InputError as error:
        raise InputError(f'{error}; the store is damaged, create it again') from error
    if not isinstance(header, dict) or header.get('format') != _FORMAT:
        raise InputError(f'{folder} is not a store of region embeddings of this version; create it again')
    return header
