"""Draw the images of docs/gallery.md: ``python tools/gallery.py [FOLDER]``, offline, on a CPU.

Needs the extra ``embedded``.  Images and models are those that the package carries or installs: photographs
of scikit-image, generated scenes, and the embedded model.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import clipdense
from clipdense.cli.photographs import SHORT_SIDE, TEMPLATES, installed_photographs
from clipdense.data.scenes import SceneSegmentation
from clipdense.utils.drawing import gallery, overlay
from clipdense.utils.image_io import read_image

TILE = 240
NAMES = (('cat', 'sofa', 'wall'), ('eye', 'ear', 'fur', 'background'), ('dog', 'car'))
QUERIES = ('a cat', 'a cup of coffee', 'the surface of the moon')


def segmenter(**options: object) -> clipdense.Segmenter:
    """The embedded model, as the quickstart uses it."""
    settings = clipdense.SegmentationOptions(short_side=SHORT_SIDE, window=0, refine=True)
    return clipdense.Segmenter.from_pretrained('embedded', options=settings, templates=TEMPLATES, **options)


def vocabularies() -> Image.Image:
    """One image, segmented by three lists of class names, the last of which does not fit."""
    model, photograph = segmenter(), installed_photographs()[0].file
    encoded = model.encode(photograph)
    row = [(read_image(photograph), '')]
    row += [(model(encoded, list(names)).draw(side=TILE), ', '.join(names)) for names in NAMES]
    return gallery([row], tile=TILE)


def probabilities() -> Image.Image:
    """The probability of each class, white for 1."""
    model, rows = segmenter(), []
    for photograph in installed_photographs()[:2]:
        result = model(photograph.file, list(photograph.names), keep_probabilities=True)
        maps = [Image.fromarray(np.uint8(255 * one)) for one in np.asarray(result.probabilities)]
        shown = [(one.convert('RGB'), name) for one, name in zip(maps, photograph.names, strict=True)]
        rows.append([(read_image(photograph.file), ''), *shown])
    return gallery(rows, tile=TILE)


def search() -> Image.Image:
    """The three best images of scikit-image's folder for each text, with their cosines."""
    with tempfile.TemporaryDirectory() as folder:
        data = installed_photographs()[0].file.parent
        for file in sorted([*data.glob('*.png'), *data.glob('*.jpg')]):
            shutil.copy(file, folder)
        index = clipdense.ImageIndex(clipdense.load('embedded'), folder)
        index.update()
        rows = []
        for query in QUERIES:
            found = index.search(query, 3)
            rows.append([(read_image(one.path), f'{query}: {one.score:.3f}') for one in found])
    return gallery(rows, tile=TILE)


def scenes() -> Image.Image:
    """Generated images with their masks."""
    data = SceneSegmentation('base', num_images=5, image_size=96)
    names, images, masks = data.vocabulary.class_names, [], []
    for number in range(5):
        sample = data[number]
        image = Image.fromarray(sample['images'].permute(1, 2, 0).numpy())
        mask = torch.as_tensor(sample['samples'].mask).numpy()
        shown = ', '.join(names[value] for value in np.unique(mask) if value not in (0, 255))
        images.append((image, shown))
        masks.append((overlay(image, mask, names, opacity=1.0, legend=False), ''))
    return gallery([images, masks], tile=TILE)


PICTURES = {'vocabularies': vocabularies, 'probabilities': probabilities, 'search': search, 'scenes': scenes}


def main(folder: Path) -> None:
    """Draw each image as a JPEG file."""
    torch.set_num_threads(1)  # the same digits on every number of cores
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        file = folder / f'{name}.jpg'
        draw().save(file, quality=85)
        print(f'{file}: {file.stat().st_size // 1024} KiB', flush=True)


if __name__ == '__main__':
    main(Path(sys.argv[1] if len(sys.argv) > 1 else 'docs/images/gallery'))
