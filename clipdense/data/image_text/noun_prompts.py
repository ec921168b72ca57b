"""Prompts from the nouns of a caption, and nouns stored in shards.  M: prompts of a caption, L: tokens."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import random
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from webdataset import gopen
from webdataset.tariterators import base_plus_ext

from clipdense.data.faults import FaultBudget
from clipdense.registry import TRANSFORMS
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write
from clipdense.utils.progress import track
from clipdense.vocab.noun_phrases import Kind, NounExtractor
from clipdense.vocab.templates import Templates, get_templates

from .datasets import TokenizerLike, caption_tokenizer
from .shard_files import (
    NOUNS_MEMBER,
    UNREADABLE,
    MeteredStream,
    caption_members,
    list_shards,
    read_pairs,
    reason,
)
from .tar_members import MemberInfo, member_limit, sample_key


@TRANSFORMS.register_module()
class NounPrompts:
    """A tokenizer that also puts nouns of the caption into prompts, for the multi-label loss.

    As the tokenizer of ``ImageTextPairs`` or ``ImageTextShards``, it adds to each item
    ``prompt_ids`` (M, L) and ``phrases`` (M,), an id of each phrase independent of its template.  Nouns are
    drawn without replacement; if a caption has fewer than M, the caption itself fills the remaining prompts.

    Args:
        count: M.
        templates: name of a set of prompt templates, or the templates.
        kind, tagger, ignore: see ``NounExtractor``.
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
            raise InputError(f'count (prompts per caption) must be at least 1, got {count}')
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
            caption: the drawn caption.
            rng: generator of the sample.
            nouns: record of the shard, see ``noun_record``; used if it was made by the same rules.
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
            self._warn_of_other_rules()
            return None
        words = record.get('nouns', {}).get(caption)
        return list(words) if isinstance(words, list) else None

    def _warn_of_other_rules(self) -> None:
        if not self._told:
            print_log(
                f'the nouns in the shards were extracted with other rules and are extracted again; '
                f'`clipdense nouns --kind {self.extract.kind}` writes those that this training needs',
                logger='current',
                level=logging.WARNING,
            )
        self._told = True


def phrase_number(phrase: str) -> int:
    """A number for a phrase: the same in every process, different for every phrase."""
    return int.from_bytes(hashlib.blake2b(phrase.encode(), digest_size=8).digest(), 'little', signed=True)


def rules(extractor: NounExtractor) -> list[Any]:
    """All settings that the nouns of a caption depend on."""
    return [extractor.kind, extractor.tagger, sorted(extractor.ignore)]


def noun_record(captions: Iterable[str], extractor: NounExtractor) -> dict[str, Any]:
    """The record of a sample in a shard: the nouns of each caption, and the rules of their extraction."""
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
        urls: shards, as in ``ImageTextShards``.
        folder: output folder; names are kept.
        extractor: finds the nouns.
        captions: members of the captions, as in ``ImageTextShards``.
        max_bad_fraction: fraction of samples without image or caption above which the call fails.

    Returns:
        The new shards.

    Raises:
        InputError: missing shards, duplicate names, a damaged shard, too many bad samples, or a full disk.
    """
    shards, folder = list_shards(urls), Path(folder)
    fields = caption_members(captions)
    names = [Path(shard).name.removesuffix('.gz').replace('.tgz', '.tar') for shard in shards]
    if len(set(names)) < len(names):
        raise InputError(
            'several shards have the same file name; write each source folder to its own output folder'
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'cannot write {folder}: {error.strerror or error}') from error
    faults = FaultBudget('samples', max_bad_fraction)
    written = [folder / name for name in names]
    for shard, path in track(list(zip(shards, written, strict=True)), 'finding nouns'):
        if path.exists() and path.samefile(shard):
            raise InputError(f'the output would overwrite the source {shard}; choose another folder')
        try:
            _copy(shard, path, extractor, fields, faults)
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(f'{shard} cannot be read: {reason(error)}') from error
    return written


def _copy(shard: str, path: Path, extractor: NounExtractor, captions: list[str], faults: FaultBudget) -> None:
    """Copy all members of a shard, and add the nouns after those of each sample."""
    with tempfile.TemporaryFile() as data:  # a shard may come from a command or a server, and is read twice
        stream = MeteredStream(gopen(shard), shard)
        shutil.copyfileobj(stream, data)
        stream.close()
        data.seek(0)
        pairs = read_pairs(MeteredStream(data, 'shard.tar'), captions, faults)
        found = {pair.name.partition('/')[2]: pair.captions for pair in pairs}
        data.seek(0)
        with (
            tarfile.open(fileobj=data, tarinfo=MemberInfo) as source,
            atomic_write(path) as file,
            tarfile.open(fileobj=file, mode='w', format=tarfile.PAX_FORMAT) as target,
        ):
            for member, content, ends in _members(source):
                if not member.name.endswith(f'.{NOUNS_MEMBER}'):
                    target.addfile(member, content)
                key = sample_key(member.name)[0]
                if ends and key in found:
                    record = json.dumps(noun_record(found[key], extractor), ensure_ascii=False).encode()
                    extra = tarfile.TarInfo(f'{base_plus_ext(member.name)[0]}.{NOUNS_MEMBER}')
                    extra.size = len(record)
                    target.addfile(extra, io.BytesIO(record))


def _members(source: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, Any, bool]]:
    """Each member, its content if it is a file, and whether it is the last of its sample."""
    members, limit = list(source), member_limit()
    for member, following in zip(members, [*members[1:], None], strict=True):
        if member.issparse() and member.size > limit:
            raise InputError(f'{member.name} is a sparse file of {member.size / 1e6:.0f} MB; remove it')
        ends = following is None or sample_key(following.name)[0] != sample_key(member.name)[0]
        yield member, source.extractfile(member) if member.isreg() else None, ends
