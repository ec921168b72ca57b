"""Filter shards: copies without the samples that rules drop, and a report; in parts, see ``utils.jobs``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clipdense.data.faults import FaultBudget
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write, writable_folder
from clipdense.utils.jobs import Job, Part
from clipdense.utils.json_files import read_json
from clipdense.utils.progress import track

from .filters import FilterRules, Pair, PairScorer, Seen, Verdict, judge
from .shard_copies import Extras, copy_shard, damaged_shards, each_shard, sources, with_copies
from .shard_files import FILTER_MEMBER, RawPair, caption_members, list_shards

REPORT, DROPPED = 'report.json', 'dropped.jsonl'


@dataclass(frozen=True)
class FilterReport:
    """How many samples there were, were kept, and were dropped for each reason."""

    samples: int
    kept: int
    dropped: dict[str, int]
    captions: dict[str, list[int]] = field(default_factory=dict)  # kept and scored ones, by source

    def lines(self) -> list[str]:
        """For people."""
        share = f' ({self.kept / self.samples:.1%})' if self.samples else ''
        first = f'{self.kept} of {self.samples} samples kept{share}'
        dropped = [f'  {count} dropped: {reason}' for reason, count in self.dropped.items()]
        captions = [
            f'  {kept} of {seen} {source} captions kept' for source, (kept, seen) in self.captions.items()
        ]
        return [first, *dropped, *captions]


def filter_shards(
    urls: str | Path | Sequence[str | Path],
    folder: str | Path,
    rules: FilterRules,
    scorer: PairScorer | None = None,
    captions: str | Sequence[str] = 'txt',
    part: Part | None = None,
    max_bad_fraction: float = 0.01,
) -> FilterReport | None:
    """Copy shards without the samples that the rules drop.

    Each sample that is kept has a new member ``filter.json`` with its ``source`` (shard and key of the first
    shards that it was copied from).  With a scorer it also has the ``score`` of the best caption, the
    captions that pass as lists ``web`` and ``synthetic``, and all of them in ``pairs``, with their scores;
    trainings read ``caption=['filter.json:web', 'filter.json:synthetic']``.  When all parts are done,
    ``report.json`` has the numbers, and ``dropped.jsonl`` each sample that was dropped and the reason.

    Duplicates are found over all shards: the first one in their order is kept, of those that pass all other
    rules.  Their hashes take about 100 bytes of memory for each sample.  In a job of several parts they are
    removed by the part that ends last.

    Args:
        urls: shards, as in ``ImageTextShards``.
        folder: output folder; names are kept.
        rules: what a sample needs.
        scorer: computes the score that ``rules.min_score`` is about.
        captions: members of the captions, as in ``ImageTextShards``.
        part: filter only the shards of this part.
        max_bad_fraction: fraction of damaged shards above which the call fails, see ``each_shard``.

    Returns:
        The report, or None while parts are missing.

    Raises:
        InputError: no rules, a minimum score without scorer, missing or too many damaged shards, duplicate
            names of shards, a full disk, or a folder of another job.
    """
    if not rules and scorer is None:
        raise InputError('no rules to filter by: give at least one, such as min_size or unique')
    if rules.min_score is not None and scorer is None:
        raise InputError('min_score needs a model that scores the pairs (--by)')
    if rules.min_caption_score is not None and 'synthetic' not in str(captions):
        raise InputError(
            'min_caption_score is about captions by a model: name them too, such as '
            "captions='txt, synthetic.json:caption' (--captions)"
        )
    if rules.min_score is not None and scorer is not None and rules.min_score > scorer.max_score:
        raise InputError(
            f'min_score={rules.min_score:g} drops all pairs: no score of this model is above '
            f'{scorer.max_score:g}'
        )
    shards, fields = list_shards(urls), caption_members(captions)
    pairs = with_copies(shards, folder)
    facts = {**sources(shards), 'captions': fields, **asdict(rules), 'scorer': scorer and scorer.digest[:16]}
    task = _Task(Job(folder, 'filter', facts, part), pairs, fields, rules, scorer)
    mine = task.job.part.of(pairs, 'shard')
    with task.job.running():
        if not task.job.complete:
            writable_folder(task.records)
            each_shard(task.job, mine, 'filtering', task.filter, task.skip, max_bad_fraction)
            task.job.finish({'shards': len(mine)}, task.merge)
    if not task.job.complete:
        return None
    found = read_json(task.job.folder / REPORT)
    return FilterReport(found['samples'], found['kept'], found['dropped'], found.get('captions', {}))


@dataclass(frozen=True)
class _Record:
    """What became of the samples of a shard.

    Args:
        samples: how many there were.
        lost: how many had no image or caption, by cause.
        dropped: key and reason of others.
        kept: key and hashes.
        captions: kept and scored captions, by source.
    """

    samples: int
    lost: dict[str, int]
    dropped: list[tuple[str, str]]
    kept: list[tuple[str, list[int]]]
    captions: dict[str, list[int]] = field(default_factory=dict)


class _Task:
    """The work of a part, and the merge."""

    def __init__(
        self,
        job: Job,
        pairs: list[tuple[str, Path]],
        fields: list[str],
        rules: FilterRules,
        scorer: PairScorer | None,
    ) -> None:
        self.job, self.pairs, self.fields, self.rules, self.scorer = job, pairs, fields, rules, scorer
        self.records = job.state / 'records'
        self.seen = Seen(rules.unique)
        self.alone = job.part.count == 1  # then duplicates are dropped at once

    def filter(self, shard: str, path: Path) -> str:
        """Write the record of a shard, then its copy; returns where the shard is damaged."""
        faults = FaultBudget('samples', 1.0, log=False)

        def decide(samples: Iterator[RawPair]) -> Mapping[str, Extras]:
            found = judge(samples, self.rules, self.scorer)
            kept, dropped = [], []
            for one in found:
                reason = one.reason or (self.seen.duplicate(one.hashes) if self.alone else '')
                if reason:
                    dropped.append((one.key, reason))
                else:
                    kept.append(one)
            lost = dict(sorted(faults.causes.items()))
            record = _Record(
                faults.seen,
                lost,
                sorted(dropped),
                [(one.key, list(one.hashes)) for one in kept],
                _count(found),
            )
            self._write(path, record)
            return {one.key: {FILTER_MEMBER: _extra(one)} for one in kept}

        return copy_shard(shard, path, self.fields, faults, decide, all_samples=False)

    def skip(self, path: Path) -> None:
        """Remember the hashes of a shard that an interrupted call has finished."""
        if self.alone:
            for _, hashes in self._read(path).kept:
                self.seen.duplicate(hashes)

    def merge(self) -> None:
        """Remove duplicates over all shards, and write the report."""
        seen, samples, kept = Seen(self.rules.unique), 0, 0
        reasons: Counter[str] = Counter()
        captions: dict[str, list[int]] = {}
        with atomic_write(self.job.folder / DROPPED, 'w') as file:
            for path in track([path for _, path in self.pairs if path.exists()], 'merging'):
                record = self._without_duplicates(path, self._read(path), seen)
                samples, kept = samples + record.samples, kept + len(record.kept)
                reasons.update(record.lost)
                for source, counts in record.captions.items():
                    before = captions.get(source, [0, 0])
                    captions[source] = [sum(two) for two in zip(before, counts, strict=True)]
                reasons.update(reason for _, reason in record.dropped)
                for key, reason in record.dropped:
                    line = {'sample': f'{path.name}/{key}', 'reason': reason}
                    file.write(json.dumps(line, ensure_ascii=False) + '\n')
        report = {'samples': samples, 'kept': kept, 'dropped': dict(sorted(reasons.items()))}
        report |= {'captions': captions} if captions else {}
        damaged = damaged_shards(self.job.folder)
        report |= {'damaged': damaged} if damaged else {}
        with atomic_write(self.job.folder / REPORT, 'w') as file:
            json.dump({**report, 'rules': asdict(self.rules)}, file, ensure_ascii=False, indent=1)

    def _without_duplicates(self, path: Path, record: _Record, seen: Seen) -> _Record:
        """Rewrite a copy and its record, if duplicates of earlier samples are in it."""
        reasons = {key: seen.duplicate(hashes) for key, hashes in record.kept}
        twice = [(key, reason) for key, reason in reasons.items() if reason]
        if not twice:
            return record
        rest = [(key, hashes) for key, hashes in record.kept if not reasons[key]]
        faults = FaultBudget('samples', 1.0, log=False)
        copy_shard(
            str(path), path, self.fields, faults, lambda _: {key: {} for key, _ in rest}, all_samples=False
        )
        dropped = [(key, reason) for key, reason in record.dropped]
        found = _Record(record.samples, record.lost, sorted([*dropped, *twice]), rest, record.captions)
        self._write(path, found)
        return found

    def _path(self, copy: Path) -> Path:
        return self.records / f'{copy.name}.json'

    def _write(self, copy: Path, record: _Record) -> None:
        with atomic_write(self._path(copy), 'w') as file:
            json.dump(asdict(record), file, ensure_ascii=False)

    def _read(self, copy: Path) -> _Record:
        try:
            return _Record(**read_json(self._path(copy)))
        except TypeError as error:
            raise InputError(f'{self._path(copy)} is damaged; filter into a new folder') from error


def _extra(one: Verdict) -> bytes:
    known: dict[str, Any] = {'source': one.source}
    if one.score is not None:
        known['score'] = round(one.score, 6)
    if one.pairs:
        for source in ('web', 'synthetic'):
            known[source] = [pair.caption for pair in one.pairs if pair.kept and pair.source == source]
        known['pairs'] = [_pair(pair) for pair in one.pairs]
    return json.dumps(known, ensure_ascii=False).encode()


def _pair(pair: Pair) -> dict[str, Any]:
    known = {
        'caption': pair.caption,
        'source': pair.source,
        'kept': pair.kept,
    }
    if pair.score is None:
        return known
    known['score'], logits = round(pair.score.score, 6), pair.score.logits
    return known if logits is None else {**known, 'logits': [round(value, 6) for value in logits]}


def _count(found: Sequence[Verdict]) -> dict[str, list[int]]:
    """Kept and scored captions, by source."""
    counts: dict[str, list[int]] = {}
    for pair in (pair for one in found for pair in one.pairs):
        kept, seen = counts.get(pair.source, [0, 0])
        counts[pair.source] = [kept + pair.kept, seen + 1]
    return counts
