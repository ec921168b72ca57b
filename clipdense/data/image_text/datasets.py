"""Images with captions from a table or from COCO captions.  N: images, L: tokens, S: side of an image."""

from __future__ import annotations

import csv
import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from clipdense.data.batches import sample_rng, to_tensor
from clipdense.data.faults import FaultBudget
from clipdense.registry import DATASETS, TRANSFORMS, build
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.image_io import read_image
from clipdense.vocab.tokenizer import Tokenizer

TokenizerLike = Callable[[list[str]], Any]

_SURROGATE = re.compile('[\ud800-\udfff]')


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

    Crop and caption depend on (seed, epoch, index) only.  An unreadable image is replaced by the next
    readable one, and counted.

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

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """``images`` (3, S, S) uint8, ``token_ids`` (L,) int64, ``names``, and what the tokenizer adds.

        Raises:
            InputError: too many or all images are unreadable.
        """
        if not 0 <= index < len(self):
            raise IndexError(f'image {index} of {len(self)}')
        for shift in range(len(self)):
            at = (index + shift) % len(self)
            self.faults.saw()
            try:
                image = read_image(self.paths[at])
            except InputError as error:
                self.faults.lose('image', str(error))
                continue
            rng = sample_rng(self.seed, int(self._epoch), at)
            captions = self.captions_of(at)
            texts = text_items(self.tokenizer, captions[rng.randrange(len(captions))], rng)
            images = to_tensor(image) if self.transform is None else self.transform(image, rng)
            return {'images': images, **texts, 'names': self.paths[at]}
        raise InputError(f'none of the {len(self)} images can be read; check the image folder')

    def captions_of(self, index: int) -> list[str]:
        """All captions of an image, for retrieval."""
        return [self._captions[at] for at in range(self._first[index], self._first[index + 1])]

    def set_epoch(self, epoch: int) -> None:
        """Select the crops and captions of this epoch, also in running workers."""
        self._epoch.fill_(epoch)
        self.faults.reset()


@DATASETS.register_module()
class CsvPairs(ImageTextPairs):
    """A table with the path and the caption of an image in each row, as open_clip reads it.

    Args:
        path: a UTF-8 file with a header row.
        image_key: column of the path.
        caption_key: column of the caption, or several (SLIP chooses between title and description).
        separator: between columns.
        root: folder that paths are relative to and must stay inside; by default the table's own
            folder, without this restriction.
        transform, tokenizer, seed, max_bad_fraction: as in ``ImageTextPairs``; rows without a path or a
            caption are skipped and counted the same way.
        group: rows with the same path are one image with several captions.

    Raises:
        InputError: a file in another format, an unknown column, a path outside ``root``, too many bad
            rows.
    """

    def __init__(
        self,
        path: str | Path,
        image_key: str = 'filepath',
        caption_key: str | Sequence[str] = 'title',
        separator: str = '\t',
        root: str | Path | None = None,
        transform: Callable | dict | None = None,
        tokenizer: TokenizerLike | dict | None = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
        group: bool = False,
    ) -> None:
        path = Path(path)
        caption_keys = [caption_key] if isinstance(caption_key, str) else list(caption_key)
        budget = FaultBudget('rows', max_bad_fraction)

        def images() -> Iterator[tuple[str, list[str]]]:
            for line, row in _rows(path, [image_key, *caption_keys], separator):
                budget.saw()
                name, captions = row[image_key], usable_captions(row[key] for key in caption_keys)
                if name and captions:
                    yield _resolve(name, root, path.parent, f'{path}, line {line}'), captions
                else:
                    budget.lose('no image or no caption', f'{path}, line {line}')

        super().__init__(
            _grouped(images()) if group else images(), transform, tokenizer, seed, max_bad_fraction
        )
        if not len(self):
            raise InputError(f'{path} has no row with both an image and a caption')


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
        names, captions = _coco_entries(Path(annotation_file))
        budget = FaultBudget('images and captions', max_bad_fraction)
        budget.saw(len(names) + sum(map(len, captions.values())))
        for unknown in captions.keys() - names.keys():
            budget.lose('captions of an unknown image', f'{annotation_file}, image_id {unknown}')

        def images() -> Iterator[tuple[str, list[str]]]:
            for image_id, name in names.items():
                where = f'{annotation_file}, image {image_id}'
                path = _resolve(name, image_folder, Path(image_folder), where)
                usable = usable_captions(captions.get(image_id, ()))
                if not usable:
                    budget.lose('no caption', where)
                elif not os.path.isfile(path):
                    budget.lose('missing image', path)
                else:
                    yield path, usable

        super().__init__(images(), transform, tokenizer, seed, max_bad_fraction)
        if not len(self):
            raise InputError(f'no image of {annotation_file} exists in {image_folder} and has a caption')


def caption_tokenizer(tokenizer: TokenizerLike | dict | None) -> TokenizerLike:
    """The given tokenizer, or OpenAI's, which then truncates long captions without warnings."""
    return Tokenizer(max_warnings=0) if tokenizer is None else build(tokenizer, TRANSFORMS)


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


def usable_captions(candidates: Iterable[object]) -> list[str]:
    """The candidates that are non-blank valid UTF-8 text, stripped."""
    return [
        caption.strip()
        for caption in candidates
        # A lone surrogate represents a byte that was not UTF-8.
        if isinstance(caption, str) and caption.strip() and not _SURROGATE.search(caption)
    ]


def _grouped(images: Iterable[tuple[str, list[str]]]) -> Iterable[tuple[str, list[str]]]:
    """One entry for each path, with all its captions."""
    groups: dict[str, list[str]] = {}
    for path, captions in images:
        groups.setdefault(path, []).extend(captions)
    return groups.items()


def _rows(path: Path, columns: Sequence[str], separator: str) -> Iterator[tuple[int, dict[str, str | None]]]:
    """Line number and fields of each row; bytes that are not UTF-8 become lone surrogates."""
    try:
        with open(path, encoding='utf-8-sig', errors='surrogateescape', newline='') as file:
            reader = csv.DictReader(file, delimiter=separator)
            known = reader.fieldnames or []
            for column in columns:
                if column not in known:
                    raise InputError(
                        f'{path} has no column {column!r}; its columns are {list(known)}. Use one of them, '
                        f'or change the separator ({separator!r}).{nearest(column, known)}'
                    )
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror or error}') from error
    except csv.Error as error:
        raise InputError(f'{path} is not a table with separator {separator!r}: {error}') from error


def _coco_entries(path: Path) -> tuple[dict[Any, str], dict[Any, list[object]]]:
    """File name of each image id, captions of each image id."""
    try:
        content = json.loads(path.read_text('utf-8'))
        pairs = [(entry['id'], str(entry['file_name'])) for entry in content['images']]
        captions: dict[Any, list[object]] = {}
        for entry in content['annotations']:
            captions.setdefault(entry['image_id'], []).append(entry['caption'])
    except OSError as error:
        raise InputError(f'cannot read {path}: {error.strerror or error}') from error
    except (ValueError, TypeError) as error:
        raise InputError(f'{path} is not JSON in COCO format: {error}') from error
    except KeyError as error:
        raise InputError(f'{path} is not in the COCO captions format: {error} is missing') from error
    images = dict(pairs)
    if len(images) < len(pairs):
        raise InputError(
            f'{path} has {len(pairs) - len(images)} images with a duplicate id; ids must be unique'
        )
    return images, captions


def _resolve(name: str, root: str | Path | None, base: Path, where: str) -> str:
    """Path of an image; with a ``root``, it must stay inside."""
    if root is None:
        return os.path.join(base, name)
    relative = PurePosixPath(name.replace('\\', '/'))  # backslashes are separators on Windows
    if not relative.parts or relative.is_absolute() or '..' in relative.parts or ':' in relative.parts[0]:
        raise InputError(f'{where}: path {name!r} is outside {root}; paths must be relative and stay inside')
    return os.path.join(root, relative)
