"""CapFilt on scenes: does a captioner and a filter that learned from noisy captions clean them for a CLIP?

    clipdense scenes data/scenes --train 20000
    clipdense train contrastive/clip_scenes
    python tools/capfilt_scenes.py runs/capfilt --clip clip.safetensors --seeds 0 1 2

The first 12 shards of 1,000 images get wrong captions at known rates ("web"): that of another image, one
that says nothing, or one wrong attribute.  The next two keep theirs ("clean", as COCO in the paper).  As in
the paper, a BLIP, whose image tower starts from weights, is pre-trained on the web captions; a captioner and
a filter (``matcher``) are fine-tuned from it on the clean ones, apart; each web image gets a synthetic
caption by nucleus sampling; matching filters web and synthetic captions.  ``matcher_hard`` is the filter with
hard negatives, as in the release.
Then the same CLIP is trained for equal steps on

* ``noisy``: the web captions,
* ``filtered``: those that pass,
* ``captioned``: web and synthetic captions,
* ``both``: web and synthetic captions that pass,
* ``synthetic``: synthetic captions alone,
* ``true``: the captions before they were made wrong, the most that cleaning can reach.

A run that has a result is not repeated, so that the command may be interrupted and continued.  It ends with
tables in Markdown; ``--table`` prints those of the runs so far.

Source: Li et al., arXiv 2201.12086, section 4.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import statistics
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

SPLITS = ('base', 'novel', 'unseen')
WEB, CLEAN = 12, 2  # shards
RATES = {'swapped': 0.3, 'generic': 0.1, 'attribute': 0.1}  # of web captions
GENERIC = (
    'a picture',
    'an image',
    'a photo',
    'there is a drawing on the wall',
    'a drawing of the background',
)
COLORS = ('red', 'green', 'blue', 'yellow')
TEXTURES = ('solid', 'striped', 'dotted', 'checked')
SHAPES = ('circle', 'square', 'triangle', 'star')
PHRASE = re.compile(rf'({"|".join(COLORS)}) ({"|".join(TEXTURES)}) ({"|".join(SHAPES)})')
CAPTIONS = {  # run -> folder of its shards and members with its captions
    'noisy': ('web', 'txt'),
    'filtered': ('filtered', 'filter.json:web'),
    'captioned': ('captioned', ['txt', 'synthetic.json:caption']),
    'both': ('filtered', ['filter.json:web', 'filter.json:synthetic']),
    'synthetic': ('captioned', 'synthetic.json:caption'),
    'true': ('web', 'truth.json:caption'),
}
MODELS = ('blip', 'captioner', 'matcher', 'matcher_hard')
DATA = ('captions', 'filter')  # the jobs over the web shards
RUNS = (*MODELS, *DATA, *CAPTIONS)
SCORES = {  # column -> name of the metric, {} is the split
    'zero-shot, own': 'zero_shot/{}/top1',
    'zero-shot, all': 'zero_shot_all/{}/top1',
    'mIoU': 'segmentation/{}/miou',
}


def wrong_attribute(caption: str, rng: Random) -> str:
    """The caption with one color, texture or shape replaced by another."""
    found = list(PHRASE.finditer(caption))
    match, at = rng.choice(found), rng.randrange(3)
    words = list(match.groups())
    words[at] = rng.choice([word for word in (COLORS, TEXTURES, SHAPES)[at] if word != words[at]])
    return caption[: match.start()] + ' '.join(words) + caption[match.end() :]


def corrupted(captions: Sequence[str], seed: str) -> list[tuple[str, str]]:
    """Each caption as the web has it, and what was done to it: a key of ``RATES``, or 'right'."""
    rng, found = Random(seed), []
    for index, caption in enumerate(captions):
        draw, kind = rng.random(), 'right'
        for name, rate in RATES.items():
            if 0 <= draw < rate:
                kind = name
            draw -= rate
        if kind == 'swapped':
            caption = captions[(index + 1 + rng.randrange(len(captions) - 1)) % len(captions)]
        elif kind == 'generic':
            caption = rng.choice(GENERIC)
        elif kind == 'attribute':
            caption = wrong_attribute(caption, rng)
        found.append((caption, kind))
    return found


def says_what_is_there(caption: str, names: Sequence[str]) -> bool:
    """Whether a caption names objects, and only those of the image."""
    phrases = [' '.join(match.groups()) for match in PHRASE.finditer(caption)]
    return bool(phrases) and set(phrases) <= set(names)


def samples(shard: Path) -> Iterator[dict[str, bytes]]:
    """The members of each sample by their ending, and its key as ''."""
    with tarfile.open(shard) as archive:
        sample: dict[str, bytes] = {}
        for member in archive:
            key, _, ending = member.name.partition('.')
            if sample and sample[''] != key.encode():
                yield sample
                sample = {}
            file = archive.extractfile(member)
            sample |= {'': key.encode(), ending: b'' if file is None else file.read()}
        if sample:
            yield sample


def write_web(source: Path, folder: Path, seed: int) -> None:
    """The web shards: wrong captions as ``.txt``, and ``.truth.json`` with the true one and what was done."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in sorted(source.glob('*.tar'))[:WEB]:
        known = list(samples(shard))
        captions = [sample['txt'].decode().strip() for sample in known]
        web = corrupted(captions, f'{seed}/{shard.name}')
        part = folder / f'.{shard.name}'
        with tarfile.open(part, 'w') as archive:
            for sample, caption, (text, kind) in zip(known, captions, web, strict=True):
                truth = {'caption': caption, 'kind': kind, 'names': json.loads(sample['json'])['class_names']}
                members = {
                    'jpg': sample['jpg'],
                    'txt': text.encode(),
                    'truth.json': json.dumps(truth).encode(),
                }
                for ending, data in members.items():
                    entry = tarfile.TarInfo(f'{sample[""].decode()}.{ending}')
                    entry.size = len(data)
                    archive.addfile(entry, io.BytesIO(data))
        os.replace(part, folder / shard.name)


def processor_seconds() -> float:
    """Time of the processor of this process and its ended children."""
    return sum(os.times()[:4])


class Study:
    """The runs of one seed.

    Args:
        out: folder of all runs.
        data: folder of ``clipdense scenes``.
        seed: of the wrong captions and of the trainings.
        clip: weights of a CLIP of scenes, whose image tower BLIP starts from.
        steps: of the pre-training of BLIP, of its fine-tunings, and of CLIP.
        captions_of: seed whose captions CLIP is trained on; the own by default.
    """

    def __init__(
        self,
        out: Path,
        data: str,
        seed: int,
        clip: str,
        steps: tuple[int, int, int],
        captions_of: int | None = None,
    ) -> None:
        self.folder, self.source, self.seed = out / str(seed), Path(data) / 'shards/train', seed
        self.captions = self.folder if captions_of is None else out / str(captions_of)
        self.start = clip
        self.pretraining, self.fine_tuning, self.clip = steps

    def run(self, name: str) -> dict[str, Any]:
        """One run of ``RUNS``; the result is also written to its folder."""
        web = self.captions / 'web'
        if not web.is_dir():
            write_web(self.source, web, self.seed)
        start = processor_seconds()
        work: Callable[[], dict[str, Any]] = getattr(self, f'_{name}', lambda: self._train_clip(name))
        found = work()
        result = {'cpu_seconds': processor_seconds() - start, **found}
        path = self.folder / name / 'result.json'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1))
        return result

    def _train(self, config: str, name: str, steps: int, urls: Any, count: int, **options: Any) -> Path:
        from clipdense.config import load_config
        from clipdense.engine import train

        training = {
            'train_cfg.max_steps': steps,
            'train_dataloader.dataset.urls': urls,
            'train_dataloader.dataset.samples_per_epoch': count,
            **{f'custom_hooks.{hook}': None for hook in load_config(config).custom_hooks},
        }
        folder = self.folder / name
        train(config, folder, seed=self.seed, options={**options, **training}, overwrite=True)
        return folder

    def _evaluate(self, config: str, weights: Path) -> dict[str, float]:
        from clipdense.config import load_config
        from clipdense.engine import test

        cfg = load_config(config)
        for hook in cfg.custom_hooks.values():
            for key in [key for key in hook.evaluations if key.startswith(('linear', 'knn'))]:
                del hook.evaluations[key]
        return test(cfg, weights, weights.parent / 'test')

    def _blip(self) -> dict[str, Any]:
        web = str(self.folder / 'web')
        start = {'model.blip.image_weights': self.start}
        folder = self._train('blip/blip_scenes_clip', 'blip', self.pretraining, web, 1000 * WEB, **start)
        return self._evaluate('blip/blip_scenes', folder / 'blip.safetensors')

    def _fine_tune(self, config: str, name: str, **options: Any) -> dict[str, Any]:
        clean = [str(shard) for shard in sorted(self.source.glob('*.tar'))[WEB : WEB + CLEAN]]
        start = {'model.blip': str(self.folder / 'blip/blip.safetensors')}
        folder = self._train(config, name, self.fine_tuning, clean, 1000 * CLEAN, **start, **options)
        return self._evaluate(config, folder / 'blip.safetensors')

    def _captioner(self) -> dict[str, Any]:
        return self._fine_tune('blip/blip_scenes_caption', 'captioner')

    def _matcher(self) -> dict[str, Any]:
        return self._fine_tune('blip/blip_scenes_retrieval', 'matcher')

    def _matcher_hard(self) -> dict[str, Any]:
        return self._fine_tune('blip/blip_scenes_retrieval', 'matcher_hard', **{'model.hard_negatives': True})

    def _captions(self) -> dict[str, Any]:
        from clipdense.inference.captioner import Captioner
        from clipdense.inference.shard_captions import caption_shards
        from clipdense.tasks.captioning import CaptionRules

        rules = CaptionRules('nucleus', repetition_penalty=1.0, max_length=36, min_length=6, seed=self.seed)
        captioner = Captioner.from_pretrained(self.folder / 'captioner/blip.safetensors', rules)
        caption_shards(self.folder / 'web', self.folder / 'captioned', captioner, batch_size=64)
        right = [
            says_what_is_there(
                json.loads(sample['synthetic.json'])['caption'], json.loads(sample['truth.json'])['names']
            )
            for shard in sorted((self.folder / 'captioned').glob('*.tar'))
            for sample in samples(shard)
        ]
        return {'right': sum(right) / len(right)}

    def _filter(self) -> dict[str, Any]:
        from clipdense import load
        from clipdense.data.image_text.filtering import filter_shards
        from clipdense.data.image_text.filters import FilterRules
        from clipdense.methods.blip.scoring import itm_scorer

        scorer = itm_scorer(load(self.folder / 'matcher/blip.safetensors'))
        members = ['txt', 'synthetic.json:caption']
        filter_shards(self.folder / 'captioned', self.folder / 'filtered', FilterRules(), scorer, members)
        return filter_quality(self.folder)

    def _train_clip(self, name: str) -> dict[str, Any]:
        folder, members = CAPTIONS[name]
        shards = sorted((self.captions / folder).glob('*.tar'))
        count = sum(1 for shard in shards for sample in samples(shard) if has_caption(sample, members))
        options = {
            'train_dataloader.dataset.caption': members,
            'train_dataloader.dataset.max_bad_fraction': 1.0,
        }
        run = self._train('slip/slip_scenes_clip', name, self.clip, [*map(str, shards)], count, **options)
        found = self._evaluate('slip/slip_scenes_clip', run / 'clip.safetensors')
        return {'images': count, 'steps': self.clip, **found}


def has_caption(sample: Mapping[str, bytes], members: str | Sequence[str]) -> bool:
    """Whether a sample has a caption in one of the members."""
    for source in [members] if isinstance(members, str) else members:
        member, _, field = source.partition(':')
        if member in sample and (not field or json.loads(sample[member]).get(field)):
            return True
    return False


def filter_quality(folder: Path) -> dict[str, float]:
    """Which web and synthetic captions the filter dropped, against what is known of them.

    ``precision``: the share of web captions that were wrong, of those that were dropped; ``recall``: the
    share that was dropped, of those that were wrong, and ``recall/KIND`` by what was done to them;
    ``kept/right``: the share of right web captions that passed.  For synthetic ones, wrong is what names an
    object that is not in the image, or none.
    """
    kept: dict[str, set[str]] = {'web': set(), 'synthetic': set()}
    for shard in sorted((folder / 'filtered').glob('*.tar')):
        for sample in samples(shard):
            known = json.loads(sample['filter.json'])
            for pair in known['pairs']:
                if pair['kept']:
                    kept[pair['source']].add(sample[''].decode())
    counts: dict[tuple[str, bool], int] = {}
    for shard in sorted((folder / 'captioned').glob('*.tar')):
        for sample in samples(shard):
            truth, key = json.loads(sample['truth.json']), sample[''].decode()
            text = json.loads(sample['synthetic.json'])['caption']
            right = says_what_is_there(text, truth['names'])
            for place in (
                (truth['kind'], key in kept['web']),
                (f'synthetic {"right" if right else "wrong"}', key in kept['synthetic']),
            ):
                counts[place] = counts.get(place, 0) + 1
    dropped = {kind: counts.get((kind, False), 0) for kind in ('right', *RATES)}
    total = {kind: dropped[kind] + counts.get((kind, True), 0) for kind in dropped}
    wrong = sum(dropped[kind] for kind in RATES)

    def share(one: float, of: float) -> float:
        return one / of if of else float('nan')

    synthetic = {
        kind: (counts.get((f'synthetic {kind}', True), 0), counts.get((f'synthetic {kind}', False), 0))
        for kind in ('right', 'wrong')
    }
    passed = synthetic['right'][0] + synthetic['wrong'][0]
    return {
        'precision': share(wrong, sum(dropped.values())),
        'recall': share(wrong, sum(total[kind] for kind in RATES)),
        **{f'recall/{kind}': share(dropped[kind], total[kind]) for kind in RATES},
        'kept/right': share(total['right'] - dropped['right'], total['right']),
        'web/right before': share(total['right'], sum(total.values())),
        'web/right after': share(
            total['right'] - dropped['right'], sum(total.values()) - sum(dropped.values())
        ),
        'synthetic/right before': share(sum(synthetic['right']), sum(map(sum, synthetic.values()))),
        'synthetic/right after': share(synthetic['right'][0], passed),
        'synthetic/kept': share(passed, sum(map(sum, synthetic.values()))),
    }


def read(out: Path) -> dict[tuple[str, int], dict[str, float]]:
    """The results in a folder, by name and seed."""
    return {
        (path.parent.name, int(path.parent.parent.name)): json.loads(path.read_text())
        for path in sorted(out.glob('*/*/result.json'))
    }


def table(results: Mapping[tuple[str, int], Mapping[str, float]]) -> str:
    """Means over seeds, with the standard deviation of several: CLIP (base / novel / unseen), then BLIP."""
    lines = [f'| run | seeds | images | CPU-s | {" | ".join(SCORES)} |', '|---' * (4 + len(SCORES)) + '|']
    for name in CAPTIONS:
        rows = [result for key, result in results.items() if key[0] == name]
        if not rows:
            continue
        cells = [
            ' / '.join(spread([row[metric.format(split)] for row in rows]) for split in SPLITS)
            for metric in SCORES.values()
        ]
        images, seconds = (statistics.mean(row[key] for row in rows) for key in ('images', 'cpu_seconds'))
        lines.append(f'| {name} | {len(rows)} | {images:.0f} | {seconds:.0f} | {" | ".join(cells)} |')
    lines += ['', '| run | measure | value |', '|---|---|---|']
    for name in (*MODELS, *DATA):
        rows = [result for key, result in results.items() if key[0] == name]
        for measure in rows[0] if rows else ():
            lines.append(f'| {name} | {measure} | {spread([row[measure] for row in rows])} |')
    return '\n'.join(lines)


def spread(values: Sequence[float]) -> str:
    """The mean, with the standard deviation of several values."""
    mean = f'{statistics.mean(values):.3f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.3f}'


def main(given: Sequence[str] | None = None) -> None:
    """Run what has no result, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder of the runs')
    parser.add_argument('--data', default='data/scenes', help='folder of `clipdense scenes`')
    parser.add_argument('--clip', default='work_dirs/clip_scenes/clip.safetensors', help='a CLIP of scenes')
    parser.add_argument(
        '--steps', type=int, nargs=3, default=[800, 600, 160], help='of BLIP, its fine-tunings, and CLIP'
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--only', nargs='+', choices=RUNS, help='names of runs')
    parser.add_argument(
        '--captions-of', type=int, help='train only the CLIPs of the seeds, on the captions of this seed'
    )
    parser.add_argument('--table', action='store_true', help='only print the tables')
    options = parser.parse_args(given)
    results = read(options.out)
    for seed in () if options.table else options.seeds:
        study = Study(
            options.out,
            options.data,
            seed,
            options.clip,
            tuple(options.steps),
            options.captions_of,
        )
        for name in RUNS if options.captions_of is None else CAPTIONS:
            if (name, seed) in results or (options.only and name not in options.only):
                continue
            results[name, seed] = study.run(name)
            print(table(results), flush=True)
    print(table(results))


if __name__ == '__main__':
    main()
