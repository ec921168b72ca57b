"""The phrases of scenes in PhraseCut's layout, to measure masks of phrases.

    clipdense scenes data/scenes_detection --train 4000 --image-size 96
    python tools/phrasecut_scenes.py data/scenes_detection/coco/annotations/instances_val_base.json
    clipdense test work_dirs/glipv2_scenes/glip.safetensors \
        --data data/scenes_detection/coco/images/refer_val_base.json

A phrase is the name of the objects of an image, such as "red striped star", and its region all of them.  The
file is written into the folder of the images, with the polygons of each mask row by row, which are exact.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def polygons(mask: np.ndarray) -> list[list[list[int]]]:
    """(H, W) -> rectangles of rows with the same columns."""
    found: list[list[list[int]]] = []
    open_runs: dict[tuple[int, int], int] = {}  # first and last column -> first row
    for row in range(len(mask) + 1):
        runs = set(_runs(mask[row])) if row < len(mask) else set()
        for left, right in [one for one in open_runs if one not in runs]:
            top = open_runs.pop((left, right))
            found.append([[left, top], [right, top], [right, row], [left, row]])
        for run in runs:
            open_runs.setdefault(run, row)
    return found


def _runs(row: np.ndarray) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
    yield from zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


def phrases(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Entries of PhraseCut from annotations with masks in COCO's layout."""
    from clipdense.data.run_lengths import to_pixels

    names = {one['id']: one['name'] for one in data['categories']}
    objects: dict[tuple[Any, str], list[Any]] = defaultdict(list)
    for one in data['annotations']:
        objects[one['image_id'], names[one['category_id']]].append(one)
    found = []
    for image in data['images']:
        size = (image['height'], image['width'])
        for (of, name), own in objects.items():
            if of == image['id']:
                masks = [to_pixels(one['segmentation'], size) for one in own]
                found.append(
                    {
                        'task_id': f'{image["id"]}__{name}',
                        'image_id': Path(image['file_name']).stem,
                        'phrase': name,
                        'instance_boxes': [one['bbox'] for one in own],
                        'Polygons': [polygons(mask) for mask in masks],
                    }
                )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file of each set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('annotations', nargs='+', type=Path, help='instances_SET.json of scenes')
    for path in parser.parse_args(arguments).annotations:
        out = path.parents[1] / 'images' / path.name.replace('instances', 'refer')
        out.write_text(json.dumps(phrases(json.loads(path.read_text()))))
        print(out)


if __name__ == '__main__':
    main()
