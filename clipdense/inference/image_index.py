"""Search a folder of images by text or by an example image.  N: images, D: joint space."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.class_embeddings import image_tower_digest
from clipdense.clip.model import CLIP
from clipdense.clip.name_tokens import warn_of_unknown
from clipdense.layers.precision import Precision, at_least_fp32, autocast, precision_name, resolve_precision
from clipdense.utils.errors import InputError, item_error
from clipdense.utils.files import cache_folder, digest, regular_file, sha256
from clipdense.utils.image_files import list_images
from clipdense.utils.image_io import read_image
from clipdense.utils.image_open import MAX_PIXELS
from clipdense.utils.progress import track
from clipdense.weights.io import WeightsFile, read_weights, weights_digest, write_weights

from .load import load_clip

FORMAT = 'clipdense image index 1'
_BATCH = 32
_THREADS = 4  # that read images while the model embeds others


class Match(NamedTuple):
    """An image that was found, and its cosine similarity with the query."""

    path: Path
    score: float


@dataclass(frozen=True)
class IndexedImage:
    """A file as it was when its image was embedded.

    Args:
        path: relative to the folder, with ``/``.
        size: in bytes.
        mtime: time of the last change in nanoseconds.
        sha256: of the file; finds images that were moved.
    """

    path: str
    size: int
    mtime: int
    sha256: str


@dataclass
class Changes:
    """What an update found: numbers of images, and the files that could not be read."""

    added: int = 0
    changed: int = 0
    moved: int = 0
    copied: int = 0
    removed: int = 0
    unchanged: int = 0
    embedded: int = 0
    failed: dict[str, InputError] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; ``failed`` has the message of each file."""
        return {
            **asdict(replace(self, failed={})),
            'failed': {key: str(one) for key, one in self.failed.items()},
        }

    def __str__(self) -> str:
        names = ('added', 'changed', 'moved', 'copied', 'removed')
        parts = [f'{getattr(self, name)} {name}' for name in names if getattr(self, name)]
        skipped = [f'{len(self.failed)} skipped'] if self.failed else []
        return f'{", ".join(parts + skipped) or "no changes"} ({self.seconds:.1f} s)'


class ImageIndex:
    """Embeddings of the images of a folder, kept in one file, with the model that they belong to.

    Args:
        clip: the model; any with image and text embeddings.
        folder: of the images, searched recursively.
        precision: see ``Predictor``; queries are computed in it too.
        max_pixels: images with more pixels are not read.

    Raises:
        InputError: not a CLIP, or no such folder.

    Example:
        >>> index = ImageIndex(clipdense.load('embedded'), 'photos/')
        >>> index.update()
        >>> index.search('a dog on a beach', top=5)[0].path
    """

    def __init__(
        self,
        clip: CLIP,
        folder: str | Path,
        precision: Precision = 'auto',
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if not isinstance(clip, CLIP):
            raise InputError(f'ImageIndex takes a CLIP, got {type(clip).__name__}: use clipdense.load(...)')
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise InputError(f'{folder} is not a folder')
        self.clip, self.max_pixels = clip.eval(), max_pixels
        self.device = next(clip.parameters()).device
        self._autocast = resolve_precision(precision, self.device)
        self.images: list[IndexedImage] = []
        self.embeddings = np.zeros((0, clip.embed_dim), np.float32)  # (N, D), of length 1

    @property
    def precision(self) -> str:
        """What the image tower computes in: 'fp32' or 'bf16'."""
        return precision_name(self._autocast or torch.float32)

    @property
    def model_digest(self) -> str:
        """Differs for image towers, or preprocessing, with other results."""
        return digest(image_tower_digest(self.clip), self.precision)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, file: str | Path) -> ImageIndex:
        """Take over what ``save`` has written; returns ``self``.

        Raises:
            InputError: not such a file, or one of another model or another folder.
            CheckpointError: a damaged file.
        """
        known = self.check(file)
        if known.metadata.get('sha256') != weights_digest(known.tensors):
            raise InputError(f'{file} is damaged: remove it, and the images are embedded again')
        if known.metadata.get('model') != self.model_digest:
            raise InputError(
                f'{file} was made with other weights, whose embeddings cannot be compared: give those, '
                'another index file, or --reindex to embed all images again'
            )
        before = Path(known.metadata['folder'])
        if before.is_dir() and not os.path.samefile(before, self.folder):
            raise InputError(f'{file} belongs to {before}, not {self.folder}: give another index file')
        rows = json.loads(bytes(known.tensors['files'].numpy()).decode('ascii'))
        self.images = [IndexedImage(**row) for row in rows]
        self.embeddings = known.tensors['embeddings'].numpy()
        return self

    @staticmethod
    def check(file: str | Path) -> WeightsFile:
        """The content of a file, if it is an image index.

        Raises:
            InputError: another kind of file.
            CheckpointError: a damaged file.
        """
        known = read_weights(regular_file(file))
        if known.metadata.get('format') != FORMAT:
            raise InputError(f'{file} is not an image index: give the file that `clipdense search` wrote')
        return known

    def save(self, file: str | Path) -> None:
        """Write the index to a safetensors file, atomically.

        Raises:
            InputError: the file cannot be written.
        """
        rows = json.dumps([asdict(image) for image in self.images])  # ASCII: undecodable names are escaped
        tensors = {
            'embeddings': torch.from_numpy(self.embeddings),
            'files': torch.frombuffer(bytearray(rows.encode('ascii')), dtype=torch.uint8),
        }
        metadata = {
            'format': FORMAT,
            'sha256': weights_digest(tensors),
            'model': self.model_digest,
            'folder': os.path.realpath(self.folder).encode('utf-8', 'backslashreplace').decode(),
        }
        write_weights(file, tensors, metadata)

    def update(self, on_error: Callable[[str, InputError], None] | None = None) -> Changes:
        """Bring the index up to date: only images that are new or have changed are read and embedded.

        An image whose file was moved or copied keeps its embedding; it is recognized by its content.  If the
        update is interrupted, the images that are done stay in the index.

        Args:
            on_error: called with the path and the error of an image that cannot be read, which is left out.

        Raises:
            InputError: the folder has no images.
        """
        begin, changes = time.monotonic(), Changes()
        kept, todo = self._compare(changes, on_error)
        try:
            for image, embedding in self._embedded(todo, changes, on_error):
                kept.append((image, embedding))
        finally:
            kept.sort(key=lambda item: item[0].path)
            self.images = [image for image, _ in kept]
            rows = [embedding for _, embedding in kept]
            self.embeddings = np.stack(rows) if rows else self.embeddings[:0]
            changes.seconds = time.monotonic() - begin
        return changes

    def search(self, query: str | Any, top: int = 10) -> list[Match]:
        """The images that are most similar to a text or an image, best first.

        All embeddings are compared; images of equal score are in the order of their paths.

        Args:
            query: a text, or a PIL image, array or ``Path`` of an image.
            top: how many.

        Raises:
            InputError: an empty index or text, or an unreadable image.
        """
        if not len(self):
            raise InputError(
                f'the index of {self.folder} has no images: call update(), or mend those it left out'
            )
        if isinstance(top, bool) or not isinstance(top, int) or top < 1:
            raise InputError(f'top must be a whole number of at least 1, got {top!r}')
        scores = self.embeddings @ self.embed(query)
        lowest = np.partition(scores, -min(top, len(self)))[-min(top, len(self))]
        able = np.flatnonzero(scores >= lowest)
        best = able[np.argsort(-scores[able], kind='stable')][:top]
        return [Match(self.folder / self.images[row].path, float(scores[row])) for row in best]

    def embed(self, query: str | Any) -> np.ndarray:
        """The embedding of a text or an image: (D,) float32, of length 1.

        Raises:
            InputError: an empty text, or an unreadable image.
        """
        if isinstance(query, str):
            if not query.strip():
                raise InputError('the text to search for is empty')
            warn_of_unknown(self.clip.tokenizer, [query], 'search texts')
            with torch.no_grad(), autocast(self.device, self._autocast):
                tokens = self.clip.tokenizer([query]).to(self.device)
                found = at_least_fp32(self.clip.encode_text(tokens))
            return F.normalize(found, dim=-1)[0].float().cpu().numpy()
        return self._encode([self.clip.preprocess(read_image(query, self.max_pixels))])[0]

    def _compare(
        self, changes: Changes, on_error: Callable[[str, InputError], None] | None
    ) -> tuple[list[tuple[IndexedImage, np.ndarray]], list[tuple[Path, IndexedImage]]]:
        """Images that keep their embedding, and those to embed."""
        found = {path.relative_to(self.folder).as_posix(): path for path in list_images(self.folder)}
        rows = {image.path: row for row, image in enumerate(self.images)}
        contents = {image.sha256: row for row, image in enumerate(self.images)}
        gone = {path for path in rows if path not in found}
        kept, todo = [], []
        for name, path in found.items():
            row = rows.get(name)
            try:
                about = os.stat(regular_file(path))
                before = None if row is None else self.images[row]
                if before and (before.size, before.mtime) == (about.st_size, about.st_mtime_ns):
                    content = before.sha256
                else:
                    content = sha256(path)
            except (InputError, OSError) as error:
                _report(changes, path, error, on_error)
                continue
            image = IndexedImage(name, about.st_size, about.st_mtime_ns, content)
            if before and before.sha256 == content:
                changes.unchanged += 1
                kept.append((image, self.embeddings[row]))
            elif content in contents:
                source = self.images[contents[content]].path
                changes.moved += source in gone
                changes.copied += source not in gone
                gone.discard(source)
                kept.append((image, self.embeddings[contents[content]]))
            else:
                changes.changed += row is not None
                changes.added += row is None
                todo.append((path, image))
        changes.removed = len(gone)
        return kept, todo

    def _embedded(
        self,
        todo: list[tuple[Path, IndexedImage]],
        changes: Changes,
        on_error: Callable[[str, InputError], None] | None,
    ) -> Iterator[tuple[IndexedImage, np.ndarray]]:
        """Read and embed images; the next batch is read while the model works."""

        def read(item: tuple[Path, IndexedImage]) -> Tensor | Exception:
            try:
                return self.clip.preprocess(read_image(item[0], self.max_pixels))
            except Exception as error:  # of one image: reported, and the rest is done
                return error

        with ThreadPoolExecutor(_THREADS) as pool:
            rest = iter(todo)
            jobs = [(item, pool.submit(read, item)) for item in islice(rest, 2 * _BATCH)]
            bar = track(range(len(todo)), 'embedding images', total=len(todo))
            while jobs:
                batch, jobs = jobs[:_BATCH], jobs[_BATCH:]
                jobs += [(item, pool.submit(read, item)) for item in islice(rest, _BATCH)]
                done = [(item, job.result()) for item, job in batch]
                good = [(item, one) for item, one in done if isinstance(one, Tensor)]
                for item, one in done:
                    if isinstance(one, Exception):
                        _report(changes, item[0], one, on_error)
                vectors = self._encode([pixels for _, pixels in good]) if good else ()
                for (item, _), vector in zip(good, vectors, strict=True):
                    changes.embedded += 1
                    yield item[1], vector
                _skip(bar, len(batch))

    def _encode(self, pixels: list[Tensor]) -> np.ndarray:
        """B x (3, S, S) -> (B, D) float32, of length 1."""
        with torch.no_grad(), autocast(self.device, self._autocast):
            found = at_least_fp32(self.clip.encode_image(torch.stack(pixels).to(self.device)))
        return F.normalize(found, dim=-1).float().cpu().numpy()


def search(
    folder: str | Path,
    query: str | Any,
    weights: str | Path | CLIP = 'ViT-B-16/openai',
    top: int = 10,
    index: str | Path | None = None,
    device: str | None = None,
) -> list[Match]:
    """Find images of a folder by text or by an example image.

    Args:
        folder: of the images.
        query: a text, or a PIL image, array or ``Path`` of an image.
        weights: of a CLIP, as ``clipdense.load`` takes them.
        top: how many images.
        index: file of the embeddings, written and brought up to date; in the cache by default.
        device: of the model; None means the GPU if there is one.

    Raises:
        InputError: as ``ImageIndex``.

    Warns:
        UserWarning: an image that cannot be read, which is left out.
    """
    found = ImageIndex(load_clip(weights, device), folder)
    file = default_file(found) if index is None else Path(index)
    if file.exists():
        found.read(file)
    found.update(lambda _, error: warnings.warn(f'left out: {error}', stacklevel=3))
    found.save(file)
    return found.search(query, top)


def default_file(index: ImageIndex) -> Path:
    """The file of an index in the cache: one for each folder and model."""
    folder = os.path.realpath(index.folder).encode('utf-8', 'surrogateescape').hex()
    return cache_folder() / 'indexes' / f'{digest(folder, index.model_digest)[:32]}.safetensors'


def _report(
    changes: Changes, path: Path, error: Exception, on_error: Callable[[str, InputError], None] | None
) -> None:
    found = changes.failed[str(path)] = item_error(error, path)
    if on_error is not None:
        on_error(str(path), found)


def _skip(items: Iterable[Any], count: int) -> None:
    for _ in islice(iter(items), count):
        pass
