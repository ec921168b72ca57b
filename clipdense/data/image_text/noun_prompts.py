"""Prompts made of the nouns of a caption, and nouns kept in shards.  M: prompts of a caption, L: tokens."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import random
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from webdataset import gopen

from clipdense.data.faults import FaultBudget
from clipdense.registry import TRANSFORMS
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write
from clipdense.utils.progress import track
from clipdense.vocab.noun_phrases import Kind, NounExtractor
from clipdense.vocab.templates import Templates, get_templates

from .datasets import TokenizerLike, caption_tokenizer
from .shard_files import NOUNS_MEMBER, UNREADABLE, MeteredStream, list_shards, read_pairs, reason


@TRANSFORMS.register_module()
class NounPrompts:
    """A tokenizer that also puts words of the caption into prompts, for the multi-label loss.

    Given to ``ImageTextPairs`` or ``ImageTextShards`` as their tokenizer, it adds to each item
    ``prompt_ids`` (M, L) and ``phrases`` (M,), a number for each phrase whatever its template.  Words are
    drawn without replacement; where a caption has fewer than M, or none, the caption itself fills the gaps.

    Args:
        count: M.
        templates: name of a set of prompt templates, or the templates.
        kind, tagger, ignore: of the words, see ``NounExtractor``.
        tokenizer: texts -> (K, L) token ids; OpenAI's by default.

    Source: GroupViT (arXiv 2202.11094), section 3.3; NVlabs/GroupViT datasets/tokenizer.py.
    """

    def __init__(
        self,
        count: int = 3,
        templates: Templates = 'imagenet',
        kind: Kind = 'word',
        tagger: str = 'lemminflect',
        ignore: Sequence[str] = (),
        tokenizer: TokenizerLike | dict | None = None,
    ) -> None:
        if count < 1:
            raise InputError(f'a caption needs at least one prompt, got count={count}')
        self.count, self.templates = count, get_templates(templates)
        self.extract, self._told = NounExtractor(kind, tagger, ignore), False
        self.tokenizer = caption_tokenizer(tokenizer)

    def __call__(self, texts: list[str]) -> Any:
        """Texts -> (K, L) token ids."""
        return self.tokenizer(texts)

    def caption_items(
        self, caption: str, rng: random.Random, nouns: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """``prompt_ids`` and ``phrases`` of a caption.

        Args:
            caption: the one that was drawn.
            rng: of the sample.
            nouns: what the shard keeps, see ``noun_record``; used where it was made by the same rules.
        """
        words = self._cached(caption, nouns)
        words = self.extract(caption) if words is None else words
        drawn = rng.sample(words, min(self.count, len(words)))
        texts = [rng.choice(self.templates.prompts(word)) for word in drawn]
        missing = self.count - len(drawn)
        ids = self.tokenizer(texts + [caption] * missing)
        phrases = [phrase_number(word) for word in [*drawn, *[caption] * missing]]
        return {
            'prompt_ids': torch.from_numpy(np.asarray(ids, dtype=np.int64)),
            'phrases': torch.tensor(phrases, dtype=torch.int64),
        }

    def _cached(self, caption: str, record: Mapping[str, Any] | None) -> list[str] | None:
        if not record:
            return None
        if record.get('rules') != rules(self.extract):
            self._tell_of_other_rules()
            return None
        words = record.get('nouns', {}).get(caption)
        return list(words) if isinstance(words, list) else None

    def _tell_of_other_rules(self) -> None:
        if not self._told:
            print_log(
                f'the shards keep nouns by other rules, so they are looked for again: '
                f'`clipdense nouns --kind {self.extract.kind}` would write those that training asks for',
                logger='current',
                level=logging.WARNING,
            )
        self._told = True


def phrase_number(phrase: str) -> int:
    """A number that is the same in every process, and another for every phrase."""
    return int.from_bytes(hashlib.blake2b(phrase.encode(), digest_size=8).digest(), 'little', signed=True)


def rules(extractor: NounExtractor) -> list[Any]:
    """What the words of a caption depend on."""
    return [extractor.kind, extractor.tagger, sorted(extractor.ignore)]


def noun_record(captions: Iterable[str], extractor: NounExtractor) -> dict[str, Any]:
    """What a shard keeps beside an image: the words of each caption, and the rules they were made by."""
    return {'rules': rules(extractor), 'nouns': {caption: extractor(caption) for caption in captions}}


def add_nouns(
    urls: str | Path | Sequence[str | Path],
    folder: str | Path,
    extractor: NounExtractor,
    captions: str | Sequence[str] = 'txt',
    max_bad_fraction: float = 0.01,
) -> list[Path]:
    """Copy shards, with a member ``nouns.json`` for each sample that has an image and a caption.

    Args:
        urls: shards, as ``ImageTextShards`` takes them.
        folder: where the copies go, under the same names.
        extractor: finds the words.
        captions: where the captions are, as in ``ImageTextShards``.
        max_bad_fraction: share of samples without image or caption that ends the work.

    Returns:
        The new shards.

    Raises:
        InputError: no such shards, two of one name, a damaged one, too many bad samples, or no room.
    """
    shards, folder = list_shards(urls), Path(folder)
    fields = [captions] if isinstance(captions, str) else list(captions)
    names = [Path(shard).name.removesuffix('.gz').replace('.tgz', '.tar') for shard in shards]
    if len(set(names)) < len(names):
        raise InputError('two of the shards have one name: give each folder a folder of its own')
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'cannot write {folder}: {error.strerror or error}') from error
    faults = FaultBudget('samples', max_bad_fraction)
    written = [folder / name for name in names]
    for shard, path in track(list(zip(shards, written, strict=True)), 'finding nouns'):
        if path.exists() and path.samefile(shard):
            raise InputError(f'{shard} would be written over itself: choose another folder')
        try:
            _copy(shard, path, extractor, fields, faults)
        except UNREADABLE as error:
            raise InputError(f'{shard} cannot be read: {reason(error)}') from error
    return written


def _copy(shard: str, path: Path, extractor: NounExtractor, captions: list[str], faults: FaultBudget) -> None:
    """All members of a shard as they are, and the nouns behind those of each sample."""
    stream = MeteredStream(gopen(shard), shard)
    data = io.BytesIO(stream.read())
    stream.close()
    pairs = read_pairs(MeteredStream(data, 'shard.tar'), captions, faults)
    found = {pair.name.partition('/')[2]: pair.captions for pair in pairs}
    with (
        tarfile.open(fileobj=io.BytesIO(data.getbuffer())) as source,
        atomic_write(path) as file,
        tarfile.open(fileobj=file, mode='w', format=tarfile.PAX_FORMAT) as target,
    ):
        for member, content, ends in _members(source):
            if not member.name.endswith(f'.{NOUNS_MEMBER}'):
                target.addfile(member, content)
            key = _key(member.name)
            if ends and key in found:
                record = json.dumps(noun_record(found[key], extractor), ensure_ascii=False).encode()
                extra = tarfile.TarInfo(f'{key}.{NOUNS_MEMBER}')
                extra.size = len(record)
                target.addfile(extra, io.BytesIO(record))


def _members(source: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, Any, bool]]:
    """Each file, its content, and whether it is the last of its sample."""
    files = [member for member in source if member.isfile()]
    for member, following in zip(files, [*files[1:], None], strict=True):
        ends = following is None or _key(following.name) != _key(member.name)
        yield member, source.extractfile(member), ends


def _key(name: str) -> str:
    folder, slash, file = name.rpartition('/')
    return folder + slash + file.partition('.')[0]
