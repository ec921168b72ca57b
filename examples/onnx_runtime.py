"""Segment an image with an exported model: onnxruntime, numpy and Pillow, nothing else.

Made on a machine with clipdense:

    clipdense export ViT-B-16/openai segmenter.onnx --method naclip
    clipdense embed --classes 'cat, sofa, wall' --out classes.safetensors

Run anywhere, with pip install onnxruntime numpy pillow:

    python onnx_runtime.py segmenter.onnx classes.safetensors photo.jpg mask.png
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

TYPES = {'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'I64': np.int64, 'I32': np.int32}


@dataclass
class Classes:
    """Class names, embeddings (Q, D), the class of each (Q,), and the index of the background."""

    names: list[str]
    queries: np.ndarray
    query_class: np.ndarray
    background: int | None = None


def read_classes(path: str) -> Classes:
    """From a file of ``clipdense embed``, or an .npz file with ``queries`` (K, D) and ``class_names``."""
    if Path(path).suffix == '.npz':
        with np.load(path, allow_pickle=False) as file:
            names = [str(name) for name in file['class_names']]
            return Classes(names, file['queries'].astype(np.float32), np.arange(len(names)))
    data = Path(path).read_bytes()  # safetensors: the length of a JSON header, the header, the values
    length = int.from_bytes(data[:8], 'little')
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]

    def tensor(name: str) -> np.ndarray:
        entry = header[name]
        first, last = entry['data_offsets']
        return np.frombuffer(body[first:last], TYPES[entry['dtype']]).reshape(entry['shape'])

    vocabulary = json.loads(header['__metadata__']['vocabulary'])
    names, ground = vocabulary['class_names'], vocabulary['background']
    background = None if ground is None else names.index(ground)
    return Classes(names, tensor('queries').astype(np.float32), tensor('query_class'), background)


class Segmenter:
    """An exported segmenter: resizes, cuts into windows, runs the graph, merges.

    Args:
        path: the .onnx file.
    """

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        found = self.session.get_modelmeta().custom_metadata_map.get('clipdense')
        self.facts = json.loads(found) if found else {}
        if self.facts.get('part') != 'segmenter':
            raise SystemExit(f'{path} is not a segmenter exported by clipdense')

    def __call__(self, image: Image.Image, classes: Classes) -> np.ndarray:
        """An image -> the class of each pixel (H, W)."""
        logits = resized(self.logits(self.prepared(image), classes.queries), image.size[::-1])  # (Q, H, W)
        best = np.stack([logits[classes.query_class == one].max(axis=0) for one in range(len(classes.names))])
        found = best.argmax(axis=0)
        threshold = self.facts['background_threshold']
        if classes.background is not None and threshold and not self.facts.get('scores'):
            highest = logits.max(axis=0)
            probability = 1 / np.exp(logits - highest).sum(axis=0)
            found[probability < threshold] = classes.background
        return found

    def prepared(self, image: Image.Image) -> np.ndarray:
        """An RGB image of any size -> (3, h, w), normalized and resized as the model expects."""
        mean, std = (np.array(self.facts['preprocess'][name], np.float32) for name in ('mean', 'std'))
        pixels = (np.asarray(image, np.float32) / 255 - mean) / std  # (H, W, 3)
        rules, (width, height) = self.facts['windows'], image.size
        if rules['short_side']:
            short, long = rules['short_side'], max(rules['short_side'], rules['long_side'])
            scale = min(short / min(width, height), long / max(width, height))
            width, height = int(width * scale + 0.5), int(height * scale + 0.5)
        planes = [Image.fromarray(np.ascontiguousarray(plane)) for plane in pixels.transpose(2, 0, 1)]
        return np.stack([plane.resize((width, height), Image.Resampling.BILINEAR) for plane in planes])

    def logits(self, pixels: np.ndarray, queries: np.ndarray) -> np.ndarray:
        """(3, h, w), (Q, D) -> (Q, h', w'): those of the only window, or the mean of all at each pixel."""
        height, width = pixels.shape[1:]
        window = self.facts['windows']['window'] or max(height, width)
        stride = self.facts['windows']['stride'] or max(1, window // 2)
        places = [
            (top, left) for top in starts(height, window, stride) for left in starts(width, window, stride)
        ]
        total, count = (
            np.zeros((len(queries), height, width), np.float32),
            np.zeros((height, width), np.float32),
        )
        for top, left in places:
            area = np.s_[:, top : top + window, left : left + window]
            part = self.padded(pixels[area])
            feed = {'images': part[None], 'class_embeddings': queries}
            found = self.session.run(['logits'], feed)[0][0]  # (Q, h', w')
            if found.shape[1:] == part.shape[1:]:  # logits of pixels: without the padding
                found = found[:, : pixels[area].shape[1], : pixels[area].shape[2]]
            if len(places) == 1:
                return found
            total[area] += resized(found, pixels[area].shape[1:])
            count[area[1:]] += 1
        return total / count

    def padded(self, pixels: np.ndarray) -> np.ndarray:
        """(3, h, w) with zeros, the mean color, up to a multiple of what the model needs."""
        wanted = (self.facts['multiples'].get(name, 1) for name in ('height', 'width'))
        more = [(0, -side % multiple) for side, multiple in zip(pixels.shape[1:], wanted, strict=True)]
        return np.ascontiguousarray(np.pad(pixels, [(0, 0), *more]))


def starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin; the last one ends at the border."""
    last = max(length - window, 0)
    return [min(place, last) for place in range(0, last + stride, stride)]


def resized(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(Q, h, w) -> (Q, H, W), bilinear, corners not aligned."""
    for axis, length in enumerate(size, start=1):
        before = values.shape[axis]
        if before == length:
            continue
        place = np.clip((np.arange(length) + 0.5) * before / length - 0.5, 0, before - 1)
        first = place.astype(int)
        shape = [-1 if one == axis else 1 for one in range(3)]
        share = (place - first).astype(np.float32).reshape(shape)
        second = np.minimum(first + 1, before - 1)
        values = values.take(first, axis) * (1 - share) + values.take(second, axis) * share
    return values


def main() -> None:
    """Segment one image and print which classes it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ('model', 'classes', 'image', 'mask'):
        parser.add_argument(name)
    given = parser.parse_args()
    classes = read_classes(given.classes)
    image = ImageOps.exif_transpose(Image.open(given.image)).convert('RGB')
    found = Segmenter(given.model)(image, classes)
    Image.fromarray(found.astype(np.uint16 if len(classes.names) > 256 else np.uint8)).save(given.mask)
    shares = np.bincount(found.ravel(), minlength=len(classes.names)) / found.size
    for index in np.argsort(-shares, kind='stable'):
        if shares[index]:
            print(f'{classes.names[index]}: {shares[index]:.1%}')


if __name__ == '__main__':
    main()
