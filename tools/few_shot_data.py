"""Folders of images with one label each, for ``tools/few_shot.py``, from scenes, boxes or masks.

    python tools/few_shot_data.py scenes OUT [--change blurred]
    python tools/few_shot_data.py boxes VOC_FOLDER OUT
    python tools/few_shot_data.py regions VOC_FOLDER OUT

``scenes`` draws images of one object; ``--change`` shows all of them as a CLIP of scenes has never seen them,
so that there is something to adapt to.  ``boxes`` crops the boxes of a dataset in PASCAL VOC's layout,
``regions`` the largest region of each class in each image.  OUT has train, val and test with class folders;
``boxes`` and ``regions`` take them from the lists of the dataset.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

from clipdense.data.scenes import Scenes
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image

PARTS = {'train': 32, 'val': 16, 'test': 48}  # scenes of each class
MARGIN = 0.1  # of a crop around its object, as a fraction of its sides
SMALLEST = 16  # pixels of the shorter side of a crop
Crop = tuple[str, Image.Image]  # class name


def blurred(image: Image.Image) -> Image.Image:
    """Half the resolution, at the same size."""
    half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BILINEAR)
    return half.resize(image.size, Image.Resampling.BILINEAR)


def faded(image: Image.Image) -> Image.Image:
    """Three tenths of the contrast, as in fog."""
    return Image.blend(Image.new('RGB', image.size, (128, 128, 128)), image, 0.3)


def negative(image: Image.Image) -> Image.Image:
    """Each color is its complement, so that the names of colors are wrong."""
    return ImageOps.invert(image)


CHANGES = {change.__name__: change for change in (blurred, faded, negative)}


def scenes(difficulty: str, seed: int, change: str | None, part: str) -> Iterator[Crop]:
    """Images of one object; the parts are streams of their own."""
    drawn = Scenes(difficulty, seed)
    changed = CHANGES[change] if change else lambda image: image
    for name in drawn.class_names:
        for index in range(PARTS[part]):
            scene = drawn.draw(index, [name], num_objects=1, stream=f'few_shot/{part}/{name}')
            yield name, changed(Image.fromarray(scene.image))


def boxes(root: Path, part: str) -> Iterator[Crop]:
    """The boxes of a part of a detection dataset."""
    from clipdense.data.detection.voc import read_voc

    content = read_voc(root, part)
    names = {one['id']: one['name'] for one in content['categories']}
    files = {one['id']: one['file_name'] for one in content['images']}
    for entry in content['annotations']:
        left, top, width, height = entry['bbox']
        image = read_image(root / 'JPEGImages' / files[entry['image_id']])
        crop = cropped(image, left, top, left + width, top + height)
        if crop is not None:
            yield names[entry['category_id']], crop


def regions(root: Path, part: str) -> Iterator[Crop]:
    """The largest connected region of each class in each image of a segmentation dataset."""
    from clipdense.data.segmentation.datasets import VOCSegmentation

    dataset = VOCSegmentation(root, split=part)
    names = dataset.vocabulary.class_names
    for index in range(len(dataset)):
        sample = dataset[index]['samples']
        mask, image = sample.mask.numpy(), read_image(sample.image_path)
        for label in np.unique(mask[mask < len(names)]):
            _, _, stats, _ = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8))
            left, top, width, height = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax(), :4]
            crop = cropped(image, left, top, left + width, top + height)
            if crop is not None:
                yield names[label], crop


def cropped(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image | None:
    """A box with a margin; None if it is too small to be seen."""
    width, height = right - left, bottom - top
    if min(width, height) < SMALLEST:
        return None
    left, right = max(0, left - MARGIN * width), min(image.width, right + MARGIN * width)
    top, bottom = max(0, top - MARGIN * height), min(image.height, bottom + MARGIN * height)
    return image.crop((round(left), round(top), round(right), round(bottom)))


def write(crops: Iterator[Crop], folder: Path, most: int) -> int:
    """Write images to class folders, at most so many of each class; returns how many."""
    counts: dict[str, int] = {}
    for name, image in crops:
        number = counts.get(name, 0)
        if number < most:
            counts[name] = number + 1
            (folder / name).mkdir(parents=True, exist_ok=True)
            image.save(folder / name / f'{number:04d}.png')
    return sum(counts.values())


def main(given: Sequence[str] | None = None) -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest='kind', required=True)
    drawn = kinds.add_parser('scenes')
    drawn.add_argument('out', type=Path)
    drawn.add_argument('--difficulty', default='standard')
    drawn.add_argument('--seed', type=int, default=1000, help='other images than those of a training')
    drawn.add_argument('--change', choices=CHANGES, help='of all images')
    for kind in ('boxes', 'regions'):
        cut = kinds.add_parser(kind)
        cut.add_argument('data', type=Path)
        cut.add_argument('out', type=Path)
        cut.add_argument('--most', type=int, default=200, help='images of each class and part (%(default)s)')
    options = parser.parse_args(given)
    if options.out.exists():
        raise SystemExit(f'{options.out} exists')
    for part in PARTS:
        try:
            if options.kind == 'scenes':
                count = write(
                    scenes(options.difficulty, options.seed, options.change, part), options.out / part, 10**9
                )
            else:
                found = (boxes if options.kind == 'boxes' else regions)(options.data, part)
                count = write(found, options.out / part, options.most)
        except InputError as error:
            print(f'{part}: {error}')
            continue
        print(f'{options.out / part}: {count} images')


if __name__ == '__main__':
    main()
