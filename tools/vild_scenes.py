"""ViLD's four variants on scenes, in one table: ``python tools/vild_scenes.py --teacher clip.safetensors``.

Writes the scenes, trains backbone and RPN once, lets the teacher look at the regions once, trains variants
on top for each seed, and measures each on base, novel and unseen classes, and on words that no box ever
named.  What is there already is used again.  The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from mmengine.config import Config

from clipdense.config import load_config, parse_options
from clipdense.data.scenes import SPLITS, write_scenes
from clipdense.engine.launch import test as measure
from clipdense.engine.launch import train
from clipdense.methods.vild.region_embeddings import embed_regions

VARIANTS = ('text', 'image', 'vild', 'ensemble')
TASKS = ('combinations', 'words')
HELD_OUT = ('yellow', 'star')  # words that no box of the task 'words' names


def main() -> None:
    """Run what is left to do, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--teacher', required=True, help='CLIP pre-trained on captions of scenes')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/vild_scenes'))
    parser.add_argument('--images', type=int, default=4000, help='to train on (%(default)s)')
    parser.add_argument('--steps', type=int, default=1000, help='of each training (%(default)s)')
    parser.add_argument('--regions', type=int, default=16, help='that the teacher sees (%(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--tasks', nargs='+', choices=TASKS, default=list(TASKS))
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument('--options', nargs='*', default=[], help='of all trainings: key.of.entry=value')
    options = parser.parse_args()
    begin = time.process_time()
    data = options.out / 'scenes'
    if not (data / 'scenes.json').is_file():
        write_scenes(data, num_train=options.images, num_val=200, image_size=96)
    rows = [row for task in options.tasks for row in run_task(task, data, options)]
    print(table(rows))
    print(json.dumps({'rows': rows, 'cpu_seconds': round(time.process_time() - begin)}))


def run_task(task: str, data: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each variant and seed."""
    common = {'model.clip': options.teacher, 'train_cfg.max_steps': options.steps}
    common |= parse_options(options.options)
    folder = options.out / task
    proposer = folder / 'rpn' / f'step_{options.steps}.pth'
    if not proposer.is_file():
        train(config('vild/vild_scenes_rpn', task, data, common), folder / 'rpn', resume=True, seed=0)
    common |= {'model.start': str(proposer), 'train_dataloader.dataset.regions': str(folder / 'regions')}
    embed_regions(
        config('vild/vild_scenes', task, data, common), proposer, folder / 'regions', regions=options.regions
    )
    for variant in options.variants:
        for seed in options.seeds:
            cfg = config('vild/vild_scenes', task, data, common)
            cfg.model.roi_head.bbox_head.variant = variant
            place = folder / f'{variant}_{seed}'
            weights = place / f'step_{options.steps}.pth'
            if not weights.is_file():
                train(cfg, place, resume=True, seed=seed)
            yield {'task': task, 'variant': variant, 'seed': seed, **scores(cfg, task, data, weights, place)}


def config(name: str, task: str, data: Path, options: dict[str, Any]) -> Config:
    """A config on these data."""
    cfg = load_config(name, options)
    for dataset in (cfg.train_dataloader.dataset, cfg.proposal_dataset):
        dataset.images = str(data / 'coco/images')
        dataset.annotations = str(data / 'coco/annotations/instances_train.json')
        if task == 'words':
            dataset.classes = [name for name in classes(data, 'base') if not is_held_out(name)]
    cfg.test_dataloader.dataset.images = str(data / 'coco/images')
    return cfg


def classes(data: Path, *splits: str) -> list[str]:
    """Names of the classes of some splits; of all where none is given."""
    categories = json.loads((data / 'coco/annotations/instances_val.json').read_text())['categories']
    return [one['name'] for one in categories if not splits or one['split'] in splits]


def is_held_out(name: str) -> bool:
    """Whether a class has a word of ``HELD_OUT``."""
    return bool(set(name.split()) & set(HELD_OUT))


def scores(cfg: Config, task: str, data: Path, weights: Path, place: Path) -> dict[str, float]:
    """AP50: of each split among its own names and among all; or of seen and new words, among all names."""

    def measured(images: str, names: list[str]) -> dict[str, float]:
        dataset = cfg.test_dataloader.dataset
        dataset.annotations = str(data / f'coco/annotations/instances_{images}.json')
        dataset.classes, dataset.novel = names, [name for name in names if is_held_out(name)]
        return measure(cfg, weights, place / 'test')

    everything = classes(data)
    if task == 'words':
        found = measured('val', everything)
        return {'seen words': found['base/AP50'], 'new words': found['novel/AP50']}
    return {
        f'{split}, {asked}': measured(f'val_{split}', names)['all/AP50']
        for split in SPLITS
        for asked, names in (('own', classes(data, split)), ('all', everything))
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the seeds, one variant a line, and half of their range where there are several."""
    lines = []
    for task in dict.fromkeys(row['task'] for row in rows):
        mine = [row for row in rows if row['task'] == task]
        columns = [name for name in mine[0] if name not in ('task', 'variant', 'seed')]
        lines.append(f'{task:14}' + ''.join(f'{name:>15}' for name in columns))
        for variant in dict.fromkeys(row['variant'] for row in mine):
            same = [row for row in mine if row['variant'] == variant]
            cells = (cell([row[name] for row in same]) for name in columns)
            lines.append(f'{variant:14}' + ''.join(f'{text:>15}' for text in cells))
    return '\n'.join(lines)


def cell(values: list[float]) -> str:
    """``0.123`` of one seed, ``0.123 +- 0.004`` of several."""
    spread = f' +- {(max(values) - min(values)) / 2:.3f}' if len(values) > 1 else ''
    return f'{mean(values):.3f}{spread}'


if __name__ == '__main__':
    main()
