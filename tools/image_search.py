"""Measure ``ImageIndex``: ``python tools/image_search.py FOLDER --images 10000 --weights embedded``.

Writes small scenes to FOLDER/images (those that exist are kept), indexes them, queries them, checks the
ranking against all cosines computed by a plain loop, and adds images.  The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch
from PIL import Image

import clipdense
from clipdense.clip.model import CLIP
from clipdense.data.scenes import SPLITS, Scenes
from clipdense.inference.image_index import ImageIndex

QUERIES = 50


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--images', type=int, default=10_000)
    parser.add_argument('--added', type=int, default=100)
    parser.add_argument('--size', type=int, default=64, help='side of the images in pixels')
    parser.add_argument('--weights', default='embedded')
    given = parser.parse_args()
    scenes, images = Scenes('standard', 0, given.size), given.folder / 'images'
    images.mkdir(parents=True, exist_ok=True)
    write(scenes, images, range(given.images))
    clip = clipdense.load(given.weights, 'cpu')
    file = given.folder / 'index.safetensors'
    index, first = ImageIndex(clip, images, 'fp32'), None
    if file.exists():
        index.read(file)
    first = index.update()
    index.save(file)
    found = {'images': len(index), 'embedded': first.embedded, 'index_s': round(first.seconds, 1)}
    found['index_mb'] = round(file.stat().st_size / 1e6, 1)
    texts = [f'a photo of a {name}' for name in scenes.class_names[:QUERIES]]
    found |= timed(index, texts)
    found['same_ranking'] = sum(same(index, clip, text) for text in texts[:10])
    write(scenes, images, range(given.images, given.images + given.added))
    begin = time.monotonic()
    index = ImageIndex(clip, images, 'fp32').read(file)
    found['read_s'] = round(time.monotonic() - begin, 2)
    added = index.update()
    found |= {'added': added.added, 'embedded_again': added.embedded, 'add_s': round(added.seconds, 2)}
    found['unchanged_s'] = round(index.update().seconds, 2)
    print(json.dumps(found | {'load': os.getloadavg()[0], 'threads': torch.get_num_threads()}))


def write(scenes: Scenes, folder: Path, numbers: range) -> None:
    """Write the images that do not exist."""
    for number in numbers:
        path = folder / f'{number:06}.jpg'
        if not path.exists():
            Image.fromarray(scenes.draw(number, SPLITS).image).save(path, quality=90)


def timed(index: ImageIndex, texts: list[str]) -> dict[str, float]:
    """Milliseconds of a query from text to paths, and of the ranking alone."""
    index.search(texts[0])
    whole, ranking = [], []
    for text in texts:
        begin = time.perf_counter()
        index.search(text, top=10)
        whole.append(1e3 * (time.perf_counter() - begin))
        begin = time.perf_counter()
        index.embed(text)
        ranking.append(whole[-1] - 1e3 * (time.perf_counter() - begin))
    return {
        'query_ms': round(statistics.median(whole), 1),
        'query_p90_ms': round(statistics.quantiles(whole, n=10)[-1], 1),
        'ranking_ms': round(statistics.median(ranking), 1),
    }


def same(index: ImageIndex, clip: CLIP, text: str) -> bool:
    """Whether the first 100 are those of all cosines, one at a time in float64."""
    with torch.no_grad():
        query = clip.encode_text(clip.tokenizer([text]), normalize=True)[0].double()
    rows = torch.from_numpy(index.embeddings)
    scores = [float(row.double() @ query) for row in rows]
    order = sorted(range(len(scores)), key=lambda number: -scores[number])[:100]
    found = index.search(text, top=100)
    ours = {str(match.path): match.score for match in found}
    last = scores[order[-1]]  # images as good as the last of the hundred may be left out
    return all(
        abs(ours.get(str(index.folder / index.images[row].path), 9) - scores[row]) < 1e-6
        or scores[row] - last < 1e-6
        for row in order
    )


if __name__ == '__main__':
    main()
