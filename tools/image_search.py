"""Measure ``ImageIndex``: ``python tools/image_search.py FOLDER --images 10000 --weights embedded``.

Writes small scenes to FOLDER/images (those that exist are kept), indexes them, queries them by text and by
image, and checks the ranking against all cosines computed by a plain loop.  Then it adds, changes, moves and
deletes images, and counts those that the image tower sees again.  The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import clipdense
from clipdense.clip.model import CLIP
from clipdense.data.scenes import SPLITS, Scenes
from clipdense.inference.image_index import Changes, ImageIndex
from clipdense.utils.errors import InputError

QUERIES, BEST = 50, 100


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='an empty folder, or one of this tool')
    parser.add_argument('--images', type=int, default=10_000)
    parser.add_argument('--added', type=int, default=100, help='as many are changed, moved and deleted')
    parser.add_argument('--size', type=int, default=64, help='side of the images in pixels')
    parser.add_argument('--weights', default='embedded')
    given = parser.parse_args()
    if given.images < max(BEST, 3 * given.added):
        parser.error(f'--images must be at least {BEST} and three times --added')
    scenes, images = Scenes('standard', 0, given.size), given.folder / 'images'
    prepare(scenes, images, given.images)
    clip, file = clipdense.load(given.weights, 'cpu'), given.folder / 'index.safetensors'
    index = ImageIndex(clip, images, 'fp32')
    first = index.update()
    save_s = seconds(lambda: index.save(file))
    texts = [f'a photo of a {scenes.class_names[n % len(scenes.class_names)]}' for n in range(QUERIES)]
    files = [index.folder / image.path for image in index.images[:: len(index) // QUERIES][:QUERIES]]
    found: dict[str, Any] = {
        'images': len(index),
        'embedded': first.embedded,
        'index_s': round(first.seconds, 1),
        'index_mb': round(file.stat().st_size / 1e6, 1),
        'save_s': round(save_s, 2),
        'text': timed(index, texts),
        'image': timed(index, files),
        'same_ranking': f'{sum(same(index, clip, query) for query in texts[:10] + files[:10])} of 20',
    }
    read = ImageIndex(clip, images, 'fp32')
    found['read_s'] = round(seconds(lambda: read.read(file)), 2)
    found['updates'] = updates(read, scenes, images, given.images, given.added)
    print(json.dumps(found | {'load': os.getloadavg()[0], 'threads': torch.get_num_threads()}))


def prepare(scenes: Scenes, images: Path, number: int) -> None:
    """The images 0 to ``number``, and nothing else: what an earlier run changed is undone.

    Raises:
        InputError: the folder has files of somebody else.
    """
    images.mkdir(parents=True, exist_ok=True)
    foreign = [path for path in images.iterdir() if path.suffix != '.jpg' or not path.stem[-6:].isdigit()]
    if foreign:
        raise InputError(f'{foreign[0]} is not of this tool: give an empty folder')
    wanted = {f'{one:06}.jpg' for one in range(number)}
    for path in images.iterdir():
        if path.name not in wanted:
            path.unlink()
    write(scenes, images, range(number))


def write(scenes: Scenes, folder: Path, numbers: Iterable[int]) -> None:
    """Write the images that do not exist."""
    for number in numbers:
        path = folder / f'{number:06}.jpg'
        if not path.exists():
            Image.fromarray(scenes.draw(number, SPLITS).image).save(path, quality=90)


def updates(index: ImageIndex, scenes: Scenes, images: Path, number: int, some: int) -> dict[str, Any]:
    """What updates find, and how many images the image tower sees, after changes of ``some`` images each."""
    seen: list[int] = []
    clip = index.clip
    encode = clip.encode_image
    clip.encode_image = lambda images, *rest: seen.append(len(images)) or encode(images, *rest)

    def told(changes: Changes) -> dict[str, Any]:
        counts = {key: value for key, value in changes.to_dict().items() if value and key != 'failed'}
        facts = counts | {'through_the_tower': sum(seen), 'seconds': round(changes.seconds, 2)}
        seen.clear()
        return facts

    found = {'unchanged': told(index.update())}
    write(scenes, images, range(number, number + some))
    found['added'] = told(index.update())
    for one in range(some):
        path = images / f'{one:06}.jpg'
        path.unlink()
        Image.fromarray(scenes.draw(number + some + one, SPLITS).image).save(path, quality=90)
    found['changed'] = told(index.update())
    for one in range(some, 2 * some):
        path = images / f'{one:06}.jpg'
        path.rename(images / f'moved {path.name}')
    found['moved'] = told(index.update())
    for one in range(2 * some, 3 * some):
        (images / f'{one:06}.jpg').unlink()
    found['removed'] = told(index.update())
    clip.encode_image = encode
    for one in range(some):  # drawn again by the next run
        (images / f'{one:06}.jpg').unlink()
    return found


def seconds(run: Any) -> float:
    """Of one call."""
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def timed(index: ImageIndex, queries: list[Any]) -> dict[str, float]:
    """Milliseconds of a query, from text or file to paths, and of the ranking alone."""
    index.search(queries[0])
    whole, ranking = [], []
    for query in queries:
        whole.append(1e3 * seconds(lambda query=query: index.search(query, top=10)))
        ranking.append(whole[-1] - 1e3 * seconds(lambda query=query: index.embed(query)))
    return {
        'query_ms': round(statistics.median(whole), 1),
        'query_p90_ms': round(statistics.quantiles(whole, n=10)[-1], 1),
        'ranking_ms': round(max(0.0, statistics.median(ranking)), 2),
    }


def same(index: ImageIndex, clip: CLIP, query: str | Path) -> bool:
    """Whether the best images are those of all cosines, one at a time in float64."""
    with torch.no_grad():
        if isinstance(query, str):
            vector = clip.encode_text(clip.tokenizer([query]), normalize=True)[0].double()
        else:
            pixels = clip.preprocess(Image.open(query).convert('RGB'))
            vector = clip.encode_image(pixels[None], normalize=True)[0].double()
    scores = [float(row.double() @ vector) for row in torch.from_numpy(index.embeddings)]
    order = sorted(range(len(scores)), key=lambda row: -scores[row])[:BEST]
    ours = {str(match.path): match.score for match in index.search(query, top=BEST)}
    last = scores[order[-1]]  # images as good as the last one may be left out
    return len(ours) == BEST and all(
        abs(ours.get(str(index.folder / index.images[row].path), 9) - scores[row]) < 1e-6
        or scores[row] - last < 1e-6
        for row in order
    )


if __name__ == '__main__':
    main()
