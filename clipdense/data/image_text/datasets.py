"""Images with captions from a table or from COCO captions.  N: images, L: tokens, S: side of an image."""

from __future__ import annotations

import copy
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from clipdense.clip.checkpoint import load
from clipdense.data.batches import sample_rng, to_tensor
from clipdense.data.faults import FaultBudget
from clipdense.data.tables import read_table
from clipdense.data.text_tables import Dialect
from clipdense.registry import DATASETS, TRANSFORMS, build
from clipdense.utils.errors import InputError
from clipdense.utils.image_files import find_image
from clipdense.utils.image_io import read_image
from clipdense.vocab.tokenizer import Tokenizer

from .entries import coco_entries, grouped, resolve, row_pair

TokenizerLike = Callable[[list[str]], Any]


class PackedStrings:
    """Many strings in one block of memory.

    Worker processes share it: a list of millions of strings would gradually be copied into each of them,
    because reference counts are written to memory (open_clip issues 480, 849).
    """

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array('q', [0])

    def append(self, string: str) -> None:
        """Add a string; lone surrogates (undecodable bytes of file names) are kept."""
        self._bytes += string.encode('utf-8', 'surrogateescape')
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode('utf-8', 'surrogateescape')


class ImageTextPairs(Dataset):
    """N images on disk with one or more captions each; one of them is drawn in each epoch.

    Crop and caption depend on (seed, epoch, index) only.  An unreadable image is counted, and replaced by the
    next readable one; for evaluation see ``unreplaced``.

    Args:
        images: N paths with their captions; iterated once.
        transform: image and generator -> (3, S, S) uint8; None returns unchanged images.
        tokenizer: texts -> (K, L) token ids; OpenAI's by default.  ``NounPrompts`` adds prompts.
        seed: of crops and captions.
        max_bad_fraction: fraction of unreadable images above which the run stops, see ``FaultBudget``.
    """

    def __init__(
        self,
        images: Iterable[tuple[str, Sequence[str]]],
        transform: Callable | dict | None = None,
        tokenizer: TokenizerLike | dict | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        self.paths, self._captions, self._first = PackedStrings(), PackedStrings(), array('q', [0])
        for path, captions in images:
            self.paths.append(path)
            for caption in captions:
                self._captions.append(caption)
            self._first.append(len(self._captions))
        self.transform = build(transform, TRANSFORMS)
        self.tokenizer = caption_tokenizer(tokenizer)
        self.seed = seed
        self.faults = FaultBudget('images', max_bad_fraction)
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # shared with persistent workers
        self._replaces = True

    def __len__(self) -> int:
        return len(self.paths)

    def unreplaced(self) -> ImageTextPairs:
        """A view for evaluation: items have their ``index``; -1 and a black image if it is unreadable."""
        view = copy.copy(self)
        view._replaces = False
        return view

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``images`` (3, S, S) uint8, ``token_ids`` (L,) int64, ``names``, and what the tokenizer adds.

        Raises:
            InputError: too many or all images are unreadable.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'image {index} of {len(self)}')
        read = getattr(self.transform, 'read', None)
        for shift in range(len(self) if self._replaces else 1):
            at = (index + shift) % len(self)
            self.faults.saw()
            rng, item = self._texts(at)
            try:
                path = find_image(self.paths[at])
                image = read_image(path) if read is None else read(path, rng)
            except (InputError, MemoryError, RecursionError) as error:
                self.faults.lose('image', str(error) or f'{self.paths[at]}: {type(error).__name__}')
                continue
            item['images'] = self._transformed(image, rng) if read is None else image
            return item if self._replaces else item | {'index': at}
        if not self._replaces:
            rng, item = self._texts(index)
            return item | {'images': self._transformed(Image.new('RGB', (32, 32)), rng), 'index': -1}
        raise InputError(f'none of the {len(self)} images can be read; check the image folder')

    def _texts(self, index: int) -> tuple[Random, dict[str, Any]]:
        """The generator of a sample after drawing its caption, and all but the image."""
        rng = sample_rng(self.seed, int(self._epoch), index)
        captions = self.captions_of(index)
        texts = text_items(self.tokenizer, captions[rng.randrange(len(captions))], rng)
        return rng, {'images': None, **texts, 'names': self.paths[index]}

    def _transformed(self, image: Image.Image, rng: Random) -> Any:
        return to_tensor(image) if self.transform is None else self.transform(image, rng)

    def captions_of(self, index: int) -> list[str]:
        """All captions of an image, for retrieval."""
        return [self._captions[at] for at in range(self._first[index], self._first[index + 1])]

    def set_epoch(self, epoch: int) -> None:
        """Select the crops and captions of this epoch, also in running workers."""
        self._epoch.fill_(epoch)
        self.faults.reset()


def _column_names(image_key: Any, caption_key: Any) -> list[str]:
    """The columns of captions."""
    names = list(caption_key) if isinstance(caption_key, list | tuple) else [caption_key]
    if not names or not all(isinstance(name, str) and name for name in (image_key, *names)):
        raise InputError(
            f'image_key and caption_key must be names of columns, got {image_key!r} and {caption_key!r}'
        )
    return names


class RowCount(NamedTuple):
    """Rows of a table: those that are no samples were lost."""

    seen: int
    lost: int


@DATASETS.register_module()
class CsvPairs(ImageTextPairs):
    """A table with the path and the caption of an image in each row: TSV, CSV, JSON lines or Parquet.

    Every row is a sample, or is counted and logged with its line, see ``read_table`` and ``Dialect``.

    Args:
        path: the file; ``.jsonl`` and ``.parquet`` are read as such, others as text with a header row.
        image_key: column of the path.
        caption_key: column of the caption, or several (SLIP chooses between title and description).  A value
            of JSON lines or Parquet may be a list of captions.
        separator: between the columns of a text table, or a ``Dialect`` (also as a dict) to turn off quoting.
            By default a tab, in ``.csv`` files also a comma.
        root: folder that paths are relative to and must stay inside; by default the table's own
            folder, without this restriction.
        transform, tokenizer, seed, max_bad_fraction: as in ``ImageTextPairs``; rows that are damaged, or
            without a path or a caption, are skipped and counted the same way.
        group: rows with the same path are one image with several captions.

    Attributes:
        rows: how many rows there were, and how many of them were lost.

    Raises:
        InputError: a file in another format, an unknown column, a path outside ``root``, too many bad
            rows.
    """

    def __init__(
        self,
        path: str | Path,
        image_key: str = 'filepath',
        caption_key: str | Sequence[str] = 'title',
        separator: str | Dialect | Mapping[str, Any] | None = None,
        root: str | Path | None = None,
        transform: Callable | dict | None = None,
        tokenizer: TokenizerLike | dict | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
        group: bool = False,
    ) -> None:
        path = Path(path).expanduser()
        caption_keys = _column_names(image_key, caption_key)
        budget = FaultBudget('rows', max_bad_fraction)

        def images() -> Iterator[tuple[str, list[str]]]:
            for row in read_table(path, [image_key, *caption_keys], separator):
                budget.saw()
                name, captions, cause, where = row_pair(row, image_key, caption_keys)
                if cause:
                    budget.lose(cause, where)
                else:
                    yield resolve(name, root, path.parent, row.where), captions

        super().__init__(
            grouped(images()) if group else images(), transform, tokenizer, seed, max_bad_fraction
        )
        if not len(self):
            last = f'; the last one: {budget.last}' if budget.last else ''
            raise InputError(f'{path} has no row with both an image and a caption{last}')
        self.rows = RowCount(budget.seen, budget.lost)
        budget.summarize([(budget.lost, budget.seen)], str(path))


@DATASETS.register_module()
class CocoCaptions(ImageTextPairs):
    """Captions in COCO's format, about five for each image.

    Args:
        annotation_file: JSON with ``images`` (``id``, ``file_name``) and ``annotations`` (``image_id``,
            ``caption``).
        image_folder: folder of the images; every ``file_name`` must stay inside.
        transform, tokenizer, seed, max_bad_fraction: as in ``ImageTextPairs``; images that are missing or
            have no caption, and captions of unknown images, are skipped and counted the same way.

    Raises:
        InputError: a file in another format, duplicate image ids, a ``file_name`` outside the folder, many
            bad entries.
    """

    def __init__(
        self,
        annotation_file: str | Path,
        image_folder: str | Path,
        transform: Callable | dict | None = None,
        tokenizer: TokenizerLike | dict | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        budget = FaultBudget('images and captions', max_bad_fraction)
        names, captions = coco_entries(Path(annotation_file), budget)

        def images() -> Iterator[tuple[str, list[str]]]:
            for image_id, name in names.items():
                where = f'{annotation_file}, image {image_id}'
                path = find_image(resolve(name, image_folder, Path(image_folder), where))
                usable = captions.get(image_id, [])
                if not usable:
                    budget.lose('no caption', where)
                elif not os.path.isfile(path):
                    budget.lose('missing image', path)
                else:
                    yield path, usable
            budget.summarize([(budget.lost, budget.seen)], str(annotation_file))

        super().__init__(images(), transform, tokenizer, seed, max_bad_fraction)
        if not len(self):
            last = f'; the last one: {budget.last}' if budget.last else ''
            raise InputError(
                f'no image of {annotation_file} exists in {image_folder} and has a caption{last}'
            )


def caption_tokenizer(tokenizer: TokenizerLike | dict | None) -> TokenizerLike:
    """The given tokenizer, or OpenAI's, which then truncates long captions without warnings."""
    return Tokenizer(max_warnings=0) if tokenizer is None else build(tokenizer, TRANSFORMS)


@TRANSFORMS.register_module()
def tokenizer_of(weights: str | Path) -> TokenizerLike:
    """The tokenizer of a CLIP, for configs that train weights with a tokenizer of their own.

    Args:
        weights: as ``clipdense.load`` takes them.
    """
    return load(weights).tokenizer


def encode(tokenizer: TokenizerLike, caption: str) -> Tensor:
    """One caption -> (L,) int64."""
    return torch.from_numpy(np.asarray(tokenizer([caption])[0], dtype=np.int64))


def text_items(
    tokenizer: TokenizerLike, caption: str, rng: Random, nouns: dict[str, Any] | None = None
) -> dict[str, Tensor]:
    """``token_ids`` (L,) of a caption, and the additional items of a tokenizer such as ``NounPrompts``."""
    items = {'token_ids': encode(tokenizer, caption)}
    more = getattr(tokenizer, 'caption_items', None)
    return items if more is None else items | more(caption, rng, nouns)
