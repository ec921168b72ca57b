"""SLIP against CLIP on scenes, at the same images and at the same compute, and its partners.

    clipdense scenes data/scenes --train 20000
    python tools/slip_scenes.py runs/slip --steps 160 --seeds 0 1 2

Every run is a training of a config of ``configs/slip`` and its evaluations, without a GPU in one thread.  The
compute of a training is the time of the processor, data workers included.  A run that has a result is not
repeated, so that the command may be interrupted and continued.  It ends with a table in Markdown; ``--table``
prints that of the runs so far.

Runs of every seed:

* ``clip``, ``slip``: the same images.
* ``clip_long``: as many steps of ``clip`` as cost what ``slip`` costs, by the first seed.
* ``slip_short``: as many steps of ``slip`` as cost what ``clip`` costs.
* ``vit_clip``, ``vit_slip``, ``vit_clip_long``: the same with a small ViT in place of the ResNet.

and of the first seed the serial variant, the views of the release, a smaller weight of the views, and the
partners; masked image modeling with the ViT.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SPLITS = ('base', 'novel', 'unseen')
SCORES = {  # column -> name of the metric, {} is the split
    'zero-shot, own': 'zero_shot/{}/top1',
    'zero-shot, all': 'zero_shot_all/{}/top1',
    'linear': 'linear/{}/top1',
    'k-NN': 'knn/{}/top1',
    'mIoU': 'segmentation/{}/miou',
}
RELEASED = {  # the views of the release, which change colors; the blur is that of 32 pixels
    f'train_dataloader.dataset.transform.views.{view}.{name}': value
    for view in ('first', 'second')
    for name, value in {
        'scale': (0.08, 1.0),
        'jitter': (0.4, 0.4, 0.4, 0.1),
        'gray': 0.2,
        'blur': 0.5,
        'blur_radius': (0.1, 0.5),
    }.items()
}


class Run(NamedTuple):
    """One training: a config, options, and how long.

    Args:
        config: in ``configs/slip``.
        options: of the config.
        cost: names of two runs (A, B) of as many steps as all have: this one has as many more as A costs more
            than B.
    """

    config: str
    options: Mapping[str, Any] = {}
    cost: tuple[str, str] | None = None


VIT = {  # the ViT of slip_scenes_masked
    f'model.clip.size.image.{name}': value
    for name, value in {
        'patch_size': 4,
        'width': 96,
        'layers': 4,
        'num_heads': 3,
        'mlp_width': 192,
        'embed_dim': 96,
        'activation': 'gelu',
    }.items()
}
EACH_SEED = {
    'clip': Run('slip_scenes_clip'),
    'slip': Run('slip_scenes'),
    'clip_long': Run('slip_scenes_clip', cost=('slip', 'clip')),
    'vit_clip': Run('slip_scenes_clip', VIT),
    'vit_slip': Run('slip_scenes', VIT),
    'vit_clip_long': Run('slip_scenes_clip', VIT, ('vit_slip', 'vit_clip')),
    'slip_short': Run('slip_scenes', cost=('clip', 'slip')),
}
FIRST_SEED = {
    'serial_1': Run('slip_scenes_alone'),
    'serial_2': Run('slip_scenes_serial', {'model.clip': '{out}/serial_1/0/clip.safetensors'}),
    'slip_released_views': Run('slip_scenes', RELEASED),
    'slip_weight_0.2': Run('slip_scenes', {'model.ssl_scale': 0.2}),
    **{
        name: Run('slip_scenes', {'model.partner.type': f'clipdense.methods.slip.{kind}'})
        for name, kind in (('byol', 'byol.Byol'), ('moco', 'moco.MocoV3'), ('dino', 'dino.Dino'))
    },
    'vit_masked': Run('slip_scenes_masked'),
}


def runs_of(seeds: Sequence[int]) -> list[tuple[str, int, Run]]:
    """Name, seed and run, in their order: ``slip_short`` comes last."""
    found = [(name, seed, run) for seed in seeds for name, run in EACH_SEED.items()]
    first = [(name, seeds[0], run) for name, run in FIRST_SEED.items()]
    return sorted(found + first, key=lambda one: one[0] == 'slip_short')


def processor_seconds() -> float:
    """Time of the processor of this process and its ended children."""
    return sum(os.times()[:4])


def perform(
    out: Path, name: str, seed: int, run: Run, steps: int, data: tuple[str, int] = ('data/scenes', 20_000)
) -> dict[str, float]:
    """Train and evaluate; the result is also written to the folder of the run.

    Args:
        out: folder of all runs.
        name, seed, run: which one.
        steps: of the training.
        data: folder of ``clipdense scenes`` and the number of its training images.
    """
    from clipdense.engine import test, train

    folder = out / name / str(seed)
    options = {
        key: value.format(out=out) if isinstance(value, str) else value for key, value in run.options.items()
    }
    training = {
        'train_cfg.max_steps': steps,
        'custom_hooks.evaluation': None,
        'train_dataloader.dataset.urls': f'{data[0]}/shards/train',
        'train_dataloader.dataset.samples_per_epoch': data[1],
    }
    start = processor_seconds()
    train(f'slip/{run.config}', folder, seed=seed, options={**options, **training}, overwrite=True)
    cost = processor_seconds() - start
    found = test('slip/slip_scenes_clip', folder / 'clip.safetensors', folder / 'test')
    result = {'steps': steps, 'cpu_seconds': cost, **found}
    (folder / 'result.json').write_text(json.dumps(result, indent=1))
    return result


def ratio(
    results: Mapping[tuple[str, int], Mapping[str, float]], seed: int, cost: tuple[str, str] | None
) -> float:
    """Cost of the first run in costs of the second."""
    if cost is None:
        return 1.0
    return results[cost[0], seed]['cpu_seconds'] / results[cost[1], seed]['cpu_seconds']


def read(out: Path) -> dict[tuple[str, int], dict[str, float]]:
    """The results in a folder, by name and seed."""
    return {
        (path.parent.parent.name, int(path.parent.name)): json.loads(path.read_text())
        for path in sorted(out.glob('*/*/result.json'))
    }


def table(results: Mapping[tuple[str, int], Mapping[str, float]]) -> str:
    """Means over seeds, with the standard deviation of several, base / novel / unseen."""
    names = [name for name in (*EACH_SEED, *FIRST_SEED) if any(key[0] == name for key in results)]
    lines = [f'| run | seeds | steps | CPU-s | {" | ".join(SCORES)} |', '|---' * (4 + len(SCORES)) + '|']
    for name in names:
        rows = [result for key, result in results.items() if key[0] == name]
        cells = [
            ' / '.join(_spread([row[metric.format(split)] for row in rows]) for split in SPLITS)
            for metric in SCORES.values()
        ]
        seconds = statistics.mean(row['cpu_seconds'] for row in rows)
        lines.append(f'| {name} | {len(rows)} | {rows[0]["steps"]} | {seconds:.0f} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _spread(values: Sequence[float]) -> str:
    mean = f'{statistics.mean(values):.3f}'
    return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.3f}'


def main(given: Sequence[str] | None = None) -> None:
    """Run what has no result, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder of the runs')
    parser.add_argument('--data', default='data/scenes', help='folder of `clipdense scenes`')
    parser.add_argument('--images', type=int, default=20_000, help='its training images')
    parser.add_argument('--steps', type=int, default=160, help='of clip and slip, with 128 images each')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--only', nargs='+', choices=[*EACH_SEED, *FIRST_SEED], help='names of runs')
    parser.add_argument('--table', action='store_true', help='only print the table')
    options = parser.parse_args(given)
    results = read(options.out)
    for name, seed, run in [] if options.table else runs_of(options.seeds):
        if (name, seed) in results or (options.only and name not in options.only):
            continue
        steps = round(options.steps * ratio(results, options.seeds[0], run.cost))
        results[name, seed] = perform(options.out, name, seed, run, steps, (options.data, options.images))
        print(table(results), flush=True)
    print(table(results))


if __name__ == '__main__':
    main()
