"""The papers' orderings of few-shot methods, with standard errors, from what ``tools/few_shot.py`` wrote.

    python tools/few_shot.py DATA --weights CLIP --hits scenes.npz
    python tools/few_shot_orderings.py scenes.npz

Differences are paired: of two methods on the same test images and seeds.  Their variance is the sum of two
parts, of the images (each averaged over the seeds) and of the seeds (each averaged over the images), which
counts the noise that both share twice, never too little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ZERO = 'zero-shot'
# What a paper says is larger, than what, on which half; the source
ORDERINGS = (
    ('CoOp', ZERO, 'base', 'arXiv 2109.01134'),
    (ZERO, 'CoOp', 'new', 'arXiv 2203.05557'),
    ('CoCoOp', 'CoOp', 'new', 'arXiv 2203.05557'),
    ('CoOp', 'CoCoOp', 'base', 'arXiv 2203.05557'),
    ('MaPLe', 'CoOp', 'new', 'arXiv 2210.03117'),
    ('MaPLe', 'CoCoOp', 'new', 'arXiv 2210.03117'),
    ('CLIP-Adapter', ZERO, 'base', 'arXiv 2110.04544'),
    ('Tip-Adapter', ZERO, 'base', 'arXiv 2207.09519'),
    ('Tip-Adapter-F', 'Tip-Adapter', 'base', 'arXiv 2207.09519'),
    ('Tip-Adapter-F', 'CLIP-Adapter', 'base', 'arXiv 2207.09519'),
)
CLEAR = 2.0  # standard errors


def difference(larger: np.ndarray, smaller: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of a paired difference of accuracies.

    Args:
        larger, smaller: (seeds, images) of bool, whether an answer was right; one row is taken for all seeds.
    """
    paired = larger.astype(float) - smaller
    seeds, images = paired.shape
    variance = paired.mean(0).var(ddof=1) / images
    if seeds > 1:
        variance += paired.mean(1).var(ddof=1) / seeds
    return float(paired.mean()), float(variance**0.5)


def orderings(hits: dict[str, np.ndarray]) -> str:
    """A table in Markdown, of percent points; ``hits`` has (seeds, images) for 'METHOD|SHOTS|HALF'."""
    shots = sorted({int(key.split('|')[1]) for key in hits} - {0})
    lines = [
        '| the papers | ' + ' | '.join(f'{count} shot{"s" * (count > 1)}' for count in shots) + ' |',
        '|---' * (1 + len(shots)) + '|',
    ]
    for larger, smaller, half, source in ORDERINGS:
        cells = [_cell(hits, larger, smaller, half, count) for count in shots]
        if any(cells):
            lines.append(f'| {larger} > {smaller} on {half} ({source}) | {" | ".join(cells)} |')
    return '\n'.join(lines)


def _cell(hits: dict[str, np.ndarray], larger: str, smaller: str, half: str, shots: int) -> str:
    found = [hits.get(f'{name}|{0 if name == ZERO else shots}|{half}') for name in (larger, smaller)]
    if found[0] is None or found[1] is None:
        return ''
    mean, error = difference(*found)
    verdict = 'unclear' if abs(mean) < CLEAR * error or not mean else 'yes' if mean > 0 else 'no'
    return f'{verdict}: {100 * mean:+.1f} ± {100 * error:.1f}'


def main(given: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('hits', type=Path, nargs='+', help='.npz files of the same test images')
    found: dict[str, np.ndarray] = {}
    for path in parser.parse_args(given).hits:
        found |= dict(np.load(path))
    print(orderings(found))


if __name__ == '__main__':
    main()
