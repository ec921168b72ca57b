"""Prompts from the nouns of a caption, and nouns stored in shards.  M: prompts of a caption, L: tokens."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor

from clipdense.data.faults import FaultBudget
from clipdense.registry import TRANSFORMS
from clipdense.utils.errors import InputError
from clipdense.utils.jobs import Job, Part
from clipdense.vocab.noun_phrases import Kind, NounExtractor
from clipdense.vocab.templates import Templates, get_templates

from .datasets import TokenizerLike, caption_tokenizer
from .shard_copies import copy_shard, each_shard, sources, with_copies
from .shard_files import NOUNS_MEMBER, RawPair, caption_members, list_shards


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
    part: Part | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Copy shards, with a member ``nouns.json`` for each sample that has an image and a caption.

    Shards that an interrupted call has finished are kept.

    Args:
        urls: shards, as in ``ImageTextShards``.
        folder: output folder; names are kept.
        extractor: finds the nouns.
        captions: members of the captions, as in ``ImageTextShards``.
        max_bad_fraction: fraction of samples without image or caption, and of damaged shards, above which the
            call fails.
        part: copy only the shards of this part.
        overwrite: start anew, also in a folder with other files.

    Returns:
        The new shards, of this part.

    Raises:
        InputError: missing shards, duplicate names, too many bad samples or damaged shards, a full disk, or a
            folder of another job.
    """
    shards, fields = list_shards(urls), caption_members(captions)
    faults = FaultBudget('samples', max_bad_fraction)
    job = Job(
        folder, 'nouns', {**sources(shards), 'captions': fields, 'rules': rules(extractor)}, part, overwrite
    )

    def records(pairs: Iterable[RawPair]) -> dict[str, dict[str, bytes]]:
        found = {pair.key: noun_record(pair.captions, extractor) for pair in pairs}
        return {
            key: {NOUNS_MEMBER: json.dumps(one, ensure_ascii=False).encode()} for key, one in found.items()
        }

    def copy(shard: str, path: Path) -> str:
        return copy_shard(shard, path, fields, faults, records, all_samples=True)

    mine = job.part.of(with_copies(shards, folder), 'shard')
    with job.running():
        for _, path in mine if overwrite else ():
            path.unlink(missing_ok=True)
        each_shard(job, mine, 'finding nouns', copy, max_bad_fraction=max_bad_fraction)
        job.finish({'shards': len(mine)})
    return [path for _, path in mine if path.exists()]
