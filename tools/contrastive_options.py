"""What options of contrastive pre-training cost and give on scenes, in one table.

    python tools/contrastive_options.py --teacher clip.safetensors --out work_dirs/contrastive_options

Each row is a training of ``contrastive/clip_scenes`` with other options and the same number of steps.  Rows
that were trained in ``--out`` before are used again.  The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from clipdense.clip.pairs import pair_towers
from clipdense.config import load_config
from clipdense.data.scenes import write_scenes
from clipdense.engine.launch import train
from clipdense.methods.contrastive.teacher import Teacher

CONFIG = 'contrastive/clip_scenes'
TUNING = 0.1  # share of the steps without patch dropout
SPLITS = ('base', 'novel', 'unseen')


def rows(teacher: str, steps: int) -> dict[str, list[dict[str, Any]]]:
    """Options of each row by name; two entries are two trainings, one after the other."""
    small = round(TUNING * steps)
    masked = {'model.clip.patch_dropout': 0.5, 'train_cfg.max_steps': steps - small}
    tuning = {
        'train_cfg.max_steps': small,
        'optim_wrapper.optimizer.lr': 3e-4,
        'param_scheduler.warmup': max(small // 10, 1),
    }
    sizes = load_config(CONFIG).model.clip.size
    image = {'type': pair_towers, 'image': teacher, 'text': dict(sizes.text)}
    text = {'type': pair_towers, 'image': dict(sizes.image), 'text': teacher}
    return {
        'as in the config': [{}],
        'sigmoid': [{'model.loss': 'sigmoid', 'model.clip.size.logit_bias': True}],
        'patch dropout 0.5': [{'model.clip.patch_dropout': 0.5}],
        'patch dropout 0.5, then all patches': [masked, tuning],
        'layer decay 0.75': [
            {'optim_wrapper.paramwise_cfg': {'layer_decay': {'image': 0.75, 'text': 0.75}}},
        ],
        'gradient clipping at 1': [{'optim_wrapper.clip_grad': {'max_norm': 1.0}}],
        'batch in 4 parts': [{'model.micro_batch': 16}],
        'gradient checkpointing': [{'model.gradient_checkpointing': True}],
        'teacher': [{'model.teacher': {'type': Teacher, 'clip': teacher}}],
        'locked image tower of the teacher (LiT)': [{'model.clip': image, 'model.lock_image': True}],
        'locked text tower of the teacher': [{'model.clip': text, 'model.lock_text': True}],
    }


def run_row(
    name: str, stages: list[dict[str, Any]], options: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """Train one row, or read what it gave before."""
    folder = options.out / f'{name.replace(" ", "_").replace(",", "")}_{seed}'
    report = folder / 'row.json'
    if report.is_file():
        return json.loads(report.read_text())
    begin, weights = time.process_time(), None
    for stage, changes in enumerate(stages):
        cfg, changes = load_config(CONFIG), dict(changes)
        if 'model.clip' in changes:
            cfg.model.clip = changes.pop('model.clip')
        steps = changes.get('train_cfg.max_steps', options.steps)
        if weights is not None:
            cfg.model.clip = str(weights)
        cfg.train_dataloader.dataset.urls = str(options.out / 'scenes/shards/train')
        cfg.train_dataloader.dataset.samples_per_epoch = options.images
        cfg.custom_hooks.pop('segmentation')
        cfg.custom_hooks.evaluation.interval = steps
        place = folder / f'stage_{stage}'
        train(cfg, place, seed=seed, options={'train_cfg.max_steps': steps, **changes}, overwrite=True)
        weights = place / 'clip.safetensors'
    scores = [json.loads(line) for line in (place / 'metrics.jsonl').read_text().splitlines()]
    final = next(line for line in reversed(scores) if 'zero_shot/base/top1' in line)
    row = {'name': name, 'seed': seed, 'cpu_seconds': round(time.process_time() - begin)}
    row |= {split: final[f'zero_shot/{split}/top1'] for split in SPLITS}
    row |= {f'all_{split}': final[f'zero_shot_all/{split}/top1'] for split in SPLITS}
    report.write_text(json.dumps(row))
    return row


def main() -> None:
    """Train what is left to train, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--teacher', required=True, help='a CLIP trained on captions of scenes')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/contrastive_options'))
    parser.add_argument('--images', type=int, default=20_000, help='to train on (%(default)s)')
    parser.add_argument('--steps', type=int, default=1200, help='of each row (%(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--rows', nargs='+', help='names of rows; all by default')
    options = parser.parse_args()
    if not (options.out / 'scenes/scenes.json').is_file():
        write_scenes(options.out / 'scenes', num_train=options.images)
    wanted = rows(options.teacher, options.steps)
    if unknown := set(options.rows or ()) - set(wanted):
        parser.error(f'unknown rows {sorted(unknown)}; there are: {", ".join(wanted)}')
    found = [
        run_row(name, stages, options, seed)
        for name, stages in wanted.items()
        for seed in options.seeds
        if not options.rows or name in options.rows
    ]
    print(table(found))
    print(json.dumps(found))


def table(found: list[dict[str, Any]]) -> str:
    """Rows as a table in Markdown."""
    lines = [
        '| options | seed | CPU-seconds | own names: base / novel / unseen | all names |',
        '|---|---|---|---|---|',
    ]
    for row in found:
        own, everything = (
            ' / '.join(f'{row[prefix + split]:.3f}' for split in SPLITS) for prefix in ('', 'all_')
        )
        lines.append(f'| {row["name"]} | {row["seed"]} | {row["cpu_seconds"]} | {own} | {everything} |')
    return '\n'.join(lines)


if __name__ == '__main__':
    main()
