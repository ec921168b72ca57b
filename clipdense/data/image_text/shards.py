"""Images with captions from tar shards.  B: batch size, L: tokens, S: side of an image."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import webdataset
from torch.utils.data import IterableDataset, get_worker_info

from clipdense.data.batches import sample_rng, to_tensor
from clipdense.data.faults import FaultBudget
from clipdense.registry import DATASETS, TRANSFORMS, build
from clipdense.utils import dist
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image

from .datasets import TokenizerLike, caption_tokenizer, text_items
from .shard_files import (
    IMAGE_MEMBERS,
    RawPair,
    UnreadableShard,
    intact_pairs,
    open_shard,
)
from .sources import ShardSource, Source, mixture_text, read_sources

_BLOCK = 4096  # samples whose sources are drawn at a time


@DATASETS.register_module()
class ImageTextShards(IterableDataset):
    """A stream of images and captions, in an order that depends on (seed, epoch, rank, worker) only.

    Each epoch shuffles the shards, distributes them to ranks and workers, and shuffles samples in a buffer.
    With ``samples_per_epoch`` each rank gives exactly the same number of full batches, whatever its shards
    contain: a worker that runs out repeats its shards.  Without it an epoch is one pass, ranks may
    differ in length, and the last batch of each worker may be smaller.

    To resume in the middle of an epoch, call ``set_epoch`` and then ``skip_batches``: earlier samples are
    skipped without decoding.  With the same numbers of workers and ranks, the following samples are
    identical.  The loader must use batches of ``batch_size`` and its workers in turn, as torch's does.

    Several sources are mixed: each sample is drawn from one of them by their weights.  A source that runs out
    begins anew; ``samples_per_epoch`` is needed.

    Args:
        urls: a path with braces (``shard-{00000..00099}.tar``) or wildcards, a folder, a URL, or a list of
            those.  A URL that begins with ``pipe:`` is run as a command.  Or several sources by name, each a
            ``ShardSource`` or its arguments: ``dict(cc3m=dict(urls='data/cc3m', weight=3), mine=dict(...))``.
        batch_size: B of the loader, which a config gives once, in the loader.
        transform: image and generator -> (3, S, S) uint8; None returns unchanged images.
        tokenizer: texts -> (K, L) token ids; OpenAI's by default.  ``NounPrompts`` adds prompts.
        caption: source of captions: 'txt' (the member ``.txt``), 'json:FIELD' (a text or a list of texts in
            the member ``.json``), or several of those.  One of several captions is drawn in each epoch.
        shuffle: buffer size of each worker in samples; 0 keeps the order of shards and samples.
        samples_per_epoch: over all ranks.
        resampled: draw shards with replacement; any number of workers may share few shards.
        seed: of order, crops and captions.
        max_bad_fraction: fraction of lost samples, and of lost shards, above which the run stops, see
            ``FaultBudget``.

    Raises:
        InputError: no shards, a missing local shard, an unknown source of captions, weights that are not
            positive, fewer shards than ranks, ``resampled`` without ``samples_per_epoch``, or too few samples
            for one batch per rank.
    """

    def __init__(
        self,
        urls: str | Path | Sequence[str | Path] | Mapping[str, ShardSource | Mapping[str, Any]],
        batch_size: int,
        transform: Callable | dict | None = None,
        tokenizer: TokenizerLike | dict | None = None,
        caption: str | Sequence[str] = 'txt',
        shuffle: int = 1000,
        samples_per_epoch: int | None = None,
        resampled: bool = False,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        if shuffle < 0:
            raise InputError(f'shuffle must be a number of samples of at least 0, got {shuffle}')
        self.sources = read_sources(urls, caption)
        self.shards = [shard for source in self.sources for shard in source.shards]
        self.batch_size, self.shuffle, self.resampled, self.seed = batch_size, shuffle, resampled, seed
        self.transform = build(transform, TRANSFORMS)
        self.tokenizer = caption_tokenizer(tokenizer)
        self.samples_per_epoch = samples_per_epoch
        self.faults = FaultBudget('samples', max_bad_fraction)
        self.shard_faults = FaultBudget('shards', max_bad_fraction, grace=1 if max_bad_fraction else 0)
        self.rank, self.world_size = dist.rank(), dist.world_size()
        self._state = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, skipped batches
        self._replaces = True
        if (resampled or len(self.sources) > 1) and samples_per_epoch is None:
            what = 'resampled=True needs' if resampled else 'several sources need'
            raise InputError(f'{what} samples_per_epoch')
        self._warn_of_rare()
        if self.batches_per_epoch == 0:
            raise InputError(
                f'samples_per_epoch={samples_per_epoch} is less than one batch of {batch_size} '
                f'for each of {self.world_size} ranks'
            )
        self.check_workers(0)

    @property
    def batches_per_epoch(self) -> int | None:
        """Batches of each rank in an epoch; None without ``samples_per_epoch``."""
        if self.samples_per_epoch is None:
            return None
        return self.samples_per_epoch // (self.batch_size * self.world_size)

    def __len__(self) -> int:
        """Samples of each rank in an epoch; only with ``samples_per_epoch``."""
        if self.batches_per_epoch is None:
            raise TypeError('a stream of shards has no length without samples_per_epoch')
        return self.batches_per_epoch * self.batch_size

    def unreplaced(self) -> ImageTextShards:
        """A view for evaluation: an unreadable image is left out, not replaced by a copy of the next one."""
        view = copy.copy(self)
        view._replaces = False
        return view

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch at its beginning; call it before iterating over the loader."""
        self.rank, self.world_size = dist.rank(), dist.world_size()
        self._state.copy_(torch.tensor([epoch, 0]))
        self.faults.reset()
        self.shard_faults.reset()

    def skip_batches(self, count: int) -> None:
        """Skip the first batches of this rank in this epoch; call it after ``set_epoch``."""
        self._state[1] = count

    def check_workers(self, num_workers: int) -> None:
        """Check that there are enough shards for the workers.

        Raises:
            InputError: too few shards; the message gives the maximum number of workers.
        """
        workers = max(num_workers, 1)
        for source in self.sources:
            shards = len(source.shards)
            if self.resampled or shards >= self.world_size * workers:
                continue
            raise InputError(
                f'{source.prefix}{shards} shards are too few for {self.world_size} ranks with {workers} '
                f'workers each; use at most {shards // self.world_size} workers, write more shards, or set '
                'resampled=True'
            )

    def __iter__(self) -> Iterator[dict[str, Any]]:
        epoch, skipped = self._state.tolist()
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        self.check_workers(workers)
        # The loader asks worker 0 first: it takes the role of the worker whose turn it was.
        role = (worker + skipped) % workers
        given = len(range(role, skipped, workers))  # earlier batches of this role
        raw = self._raw_pairs(epoch, self.rank * workers + role, self.world_size * workers)
        items = self._items(itertools.islice(raw, given * self.batch_size, None), epoch)
        if self.batches_per_epoch is None:
            return items
        left = len(range(role, self.batches_per_epoch, workers)) - given
        return itertools.islice(items, max(left, 0) * self.batch_size)

    def _items(self, pairs: Iterable[RawPair], epoch: int) -> Iterator[dict[str, Any]]:
        """One item for each pair; a broken image is replaced by a copy of the next one.

        If broken ones were dropped, the position after a skip would be unknown without decoding.
        """
        owed, read = 1, getattr(self.transform, 'read', None)
        for pair in pairs:
            rng = sample_rng(self.seed, epoch, f'{pair.turn}/{pair.name}')
            caption = pair.captions[rng.randrange(len(pair.captions))]
            texts = text_items(self.tokenizer, caption, rng, pair.nouns)
            try:
                image = read_image(pair.image) if read is None else read(pair.image, rng)
            except (InputError, MemoryError, RecursionError) as error:
                owed += self._replaces
                self.faults.lose('image', f'{pair.name}: {error or type(error).__name__}')
                continue
            if read is None:
                image = to_tensor(image) if self.transform is None else self.transform(image, rng)
            for _ in range(owed):
                yield {'images': image, **texts, 'names': pair.name}
            owed = 1

    def _warn_of_rare(self) -> None:
        total = sum(source.weight for source in self.sources)
        for source in self.sources:
            expected = source.weight / total * (self.samples_per_epoch or inf)
            if expected < 1:
                warnings.warn(
                    f'source {source.name!r} has a weight of {source.weight:g} of {total:g}: less than one '
                    f'of the {self.samples_per_epoch} samples of an epoch comes from it',
                    stacklevel=3,
                )

    @property
    def mixture(self) -> str:
        """Names, weights and numbers of shards of several sources; '' for one."""
        return mixture_text(self.sources)

    def drawn(self, epoch: int, first: int, last: int, num_workers: int) -> dict[str, int]:
        """Samples that all ranks together draw from each source in some batches of an epoch.

        A function of the seed, which needs no data: it is the same after resuming.

        Args:
            epoch: the epoch.
            first, last: batches of each rank, without the last one.
            num_workers: of the loader.
        """
        workers, counts = max(num_workers, 1), np.zeros(len(self.sources), np.int64)
        for place in range(self.world_size * workers):
            role = place % workers
            begin, end = (len(range(role, batches, workers)) * self.batch_size for batches in (first, last))
            blocks = self._draws(epoch, place, begin)
            for left in range(end - begin, 0, -_BLOCK):
                counts += np.bincount(next(blocks)[:left], minlength=len(counts))
        return {source.name: int(count) for source, count in zip(self.sources, counts, strict=True)}

    def _draws(self, epoch: int, place: int, start: int = 0) -> Iterator[np.ndarray]:
        """Which source the samples of one worker come from, in blocks, endlessly."""
        weights = np.cumsum([source.weight for source in self.sources])
        generator = np.random.PCG64(Random(f'{self.seed}/{epoch}/{place}/sources').getrandbits(128))
        rng = np.random.Generator(generator.advance(start))  # a sample takes one number
        while True:
            yield np.searchsorted(weights[:-1] / weights[-1], rng.random(_BLOCK), side='right')

    def _raw_pairs(self, epoch: int, place: int, places: int) -> Iterator[RawPair]:
        """The undecoded stream of one worker of one rank; endless if an epoch has a fixed size."""
        streams = [self._of_source(source, epoch, place, places) for source in self.sources]
        if len(streams) == 1:
            yield from streams[0]
            return
        # All are begun at once, so that a source without captions ends the run at its start.
        streams = [itertools.chain([next(stream)], stream) for stream in streams]
        for block in self._draws(epoch, place):
            for at in block.tolist():
                yield next(streams[at])

    def _of_source(self, source: Source, epoch: int, place: int, places: int) -> Iterator[RawPair]:
        """The part of a source that one worker of one rank reads."""
        for turn in itertools.count():
            shards = self._deal(source, epoch, turn, place, places)
            pairs = self._read(shards, source, turn)
            if self.shuffle:
                rng = Random(f'{source.seed}{self.seed}/{epoch}/{turn}/{place}/samples')
                pairs = webdataset.shuffle(self.shuffle, rng=rng)(pairs)
            first = next(pairs, None)
            if first is None:
                raise InputError(
                    f'{source.prefix}no readable sample in {", ".join(shards[:3])}; a sample is an image '
                    f'({", ".join(IMAGE_MEMBERS)}) and a caption ({", ".join(source.captions)}) '
                    'with the same name, next to each other'
                )
            yield first
            yield from pairs
            if self.samples_per_epoch is None:
                return

    def _deal(self, source: Source, epoch: int, turn: int, place: int, places: int) -> list[str]:
        """The shards of one worker; all workers shuffle identically, so that no shard is used twice."""
        if self.resampled:
            rng = Random(f'{source.seed}{self.seed}/{epoch}/{turn}/{place}/shards')
            return rng.choices(source.shards, k=len(source.shards))
        order = list(source.shards)
        if self.shuffle:
            Random(f'{source.seed}{self.seed}/{epoch}/{turn}').shuffle(order)
        return order[place::places]

    def _read(self, shards: Iterable[str], source: Source, turn: int) -> Iterator[RawPair]:
        """The samples of shards; an error ends its shard only."""
        for url in shards:
            self.shard_faults.saw()
            damage: list[str] = []
            try:
                with open_shard(url) as stream:
                    yield from intact_pairs(stream, source.captions, self.faults, damage.append, turn)
            except UnreadableShard as error:
                damage.append(str(error))
            except InputError as error:
                raise InputError(f'{source.prefix}{error}') from error
            for what in damage:
                self.shard_faults.lose('shard', f'{url}: {what}')
