"""``clipdense segment`` on a folder of photographs against a plain loop over the same model."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from PIL import Image

from .harness import Found, Options, Row, interleave

COUNT, MANY = 200, 2000  # images
SIZE = (640, 480)
NAMES = ['person', 'cat', 'cup', 'rocket', 'wall', 'sky', 'floor', 'table']
LOOP = """
import json, sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import clipdense
from clipdense.inference.results import Segmentation

folder, out, threads = sys.argv[1:]
torch.set_num_threads(int(threads))
names = {names!r}
segmenter = clipdense.Segmenter.from_pretrained('embedded', precision='fp32')
model, vocabulary = segmenter.model, segmenter.set_vocabulary(names)
model.set_vocabulary(vocabulary, segmenter.embeddings)
for path in sorted(Path(folder).iterdir()):
    image = Image.open(path).convert('RGB')
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    labels = model.segment(pixels)
    result = Segmentation(labels.classes.numpy(), labels.probability.numpy(), vocabulary, image)
    result.save(f'{{out}}/{{path.stem}}_mask.png')
    result.draw().save(f'{{out}}/{{path.stem}}_overlay.png')
    Path(f'{{out}}/{{path.stem}}.json').write_text(json.dumps(result.to_dict()))
"""


def folder(options: Options) -> Found:
    """200 photographs of 640 x 480 by ``clipdense segment`` (embedded model) against a plain loop."""
    threads = str(options.threads or len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as place:
        photographs(Path(place, 'images'), COUNT)
        (Path(place) / 'loop').mkdir()

        def ours() -> None:
            segment(place, 'images', threads)

        def peer() -> None:
            call([sys.executable, '-c', LOOP.format(names=NAMES), 'images', 'loop', threads], place, threads)

        times = interleave(ours, peer, options, warm_up=0)
        differing = sum(
            Path(place, 'out', file.name).read_bytes() != file.read_bytes()
            for file in Path(place, 'loop').glob('*_mask.png')
        )
        photographs(Path(place, 'many'), MANY)
        memory = [segment(place, images, threads, '--short-side', '64') for images in ('images', 'many')]
    wall, cpu = ([median(getattr(one, clock)) for one in times] for clock in ('wall', 'cpu'))
    rows = [
        Row('200 images, with loading', *wall, 's'),
        Row('200 images, CPU time', *cpu, 'CPU-s'),
        Row('peak memory of 2,000 images against 200, short side 64', memory[1], memory[0], 'MiB'),
    ]
    return rows, {'threads': threads, 'masks that differ from the loop': differing}


def photographs(place: Path, count: int) -> None:
    """Write JPEG files: crops of scikit-image's photographs; from 200 on they are links to the first."""
    from skimage import data

    place.mkdir()
    photos = [Image.fromarray(getattr(data, name)()) for name in ('astronaut', 'chelsea', 'coffee', 'rocket')]
    for index in range(min(count, COUNT)):
        photo = photos[index % len(photos)]
        shift = index // len(photos)
        photo.resize(SIZE, box=(shift, shift, photo.width - 60 + shift, photo.height - 60 + shift)).save(
            place / f'{index:04d}.jpg', quality=92
        )
    for index in range(COUNT, count):
        os.link(place / f'{index % COUNT:04d}.jpg', place / f'{index:04d}.jpg')


def segment(place: str, images: str, threads: str, *arguments: str) -> float:
    """Run the command; returns its peak memory in MiB."""
    command = [sys.executable, '-m', 'clipdense', 'segment', images, '--classes', ', '.join(NAMES)]
    options = ['--weights', 'embedded', '--precision', 'fp32', '--out', 'out', '--overwrite', *arguments]
    return call([*command, *options], place, threads)


def call(command: list[str], place: str, threads: str) -> float:
    """Run a program; returns its peak memory in MiB.

    Raises:
        SystemExit: it failed.
    """
    program = subprocess.Popen(
        command, cwd=place, env={**os.environ, 'OMP_NUM_THREADS': threads}, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(program.pid, 0)
    if status:
        raise SystemExit(f'{command[:4]} failed with status {status}')
    return usage.ru_maxrss / 1024
