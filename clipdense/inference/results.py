"""Results as checked dataclasses.  (H, W): pixels, K: classes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write
from clipdense.utils.image_io import voc_palette, write_mask
from clipdense.utils.visualize import overlay
from clipdense.vocab.vocabulary import Vocabulary


@dataclass(frozen=True)
class Classification:
    """Probabilities of the classes for one picture.

    Args:
        probabilities: (K,), summing to one.
        vocabulary: K classes.

    Raises:
        ValueError: as many probabilities as classes are needed.
    """

    probabilities: NDArray[np.floating]
    vocabulary: Vocabulary

    def __post_init__(self) -> None:
        if self.probabilities.shape != (len(self.vocabulary),):
            shape = self.probabilities.shape
            raise ValueError(f'probabilities {shape} for a vocabulary of {len(self.vocabulary)} classes')

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes, best first."""
        order = np.argsort(-self.probabilities, kind='stable')[:count]
        return [(self.vocabulary.class_names[index], float(self.probabilities[index])) for index in order]


@dataclass(frozen=True)
class Segmentation:
    """One class for each pixel.

    Args:
        mask: (H, W) class indices.
        scores: (H, W) probability of that class among all.
        vocabulary: K classes.
        image: the picture, as displayed; ``draw`` needs it.

    Raises:
        ValueError: sizes that differ, or an index that no class has.
    """

    mask: NDArray[np.integer]
    scores: NDArray[np.floating]
    vocabulary: Vocabulary
    image: Image.Image | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.mask.ndim != 2 or self.scores.shape != self.mask.shape:
            raise ValueError(f'mask {self.mask.shape} and scores {self.scores.shape} must be one (H, W)')
        if self.image is not None and self.image.size[::-1] != self.mask.shape:
            raise ValueError(f'picture {self.image.size[::-1]} and mask {self.mask.shape} differ in size')
        if self.mask.size and not 0 <= self.mask.min() <= self.mask.max() < len(self.vocabulary):
            raise ValueError(f'mask holds class {self.mask.max()} of {len(self.vocabulary)} classes')

    def shares(self) -> dict[str, float]:
        """Share of the picture that each class covers, largest first; absent classes are left out."""
        counts = np.bincount(self.mask.ravel(), minlength=len(self.vocabulary)) / max(1, self.mask.size)
        order = np.argsort(-counts, kind='stable')
        return {self.vocabulary.class_names[index]: float(counts[index]) for index in order if counts[index]}

    def draw(self, image: Image.Image | None = None, opacity: float = 0.6) -> Image.Image:
        """The picture with the mask over it and a legend.

        Raises:
            InputError: no picture is kept here and none is given.
        """
        image = image or self.image
        if image is None:
            raise InputError('this result keeps no picture: pass it, result.draw(image)')
        palette = voc_palette(len(self.vocabulary) + 1)[1:]  # black is no colour for a class
        return overlay(image, self.mask, self.vocabulary.class_names, palette, opacity)

    def save(self, path: str | Path) -> Path:
        """Write the mask as a palette PNG whose indices are the classes."""
        write_mask(path, self.mask)
        return Path(path)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: size, classes, shares and mean score of each class that occurs."""
        return {
            'height': self.mask.shape[0],
            'width': self.mask.shape[1],
            'classes': list(self.vocabulary.class_names),
            'segments': [
                {
                    'class': name,
                    'class_index': self.vocabulary.index(name),
                    'share': round(share, 6),
                    'score': round(float(self.scores[self.mask == self.vocabulary.index(name)].mean()), 4),
                }
                for name, share in self.shares().items()
            ],
        }

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """One COCO result with a run-length mask for each class that occurs; category ids count from 1."""
        from pycocotools import mask as coco_mask

        results = []
        for segment in self.to_dict()['segments']:
            index = segment['class_index']
            encoded = coco_mask.encode(np.asfortranarray(self.mask == index, dtype=np.uint8))
            encoded['counts'] = encoded['counts'].decode()
            results.append(
                {
                    'image_id': image_id,
                    'category_id': index + 1,
                    'segmentation': encoded,
                    'score': segment['score'],
                }
            )
        return results

    def to_supervision(self) -> Any:
        """``supervision.Detections`` with one mask for each class that occurs (extra ``viz``)."""
        import supervision

        present = np.unique(self.mask)
        masks = self.mask[None] == present[:, None, None]
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks),
            mask=masks,
            class_id=present.astype(int),
            data={'class_name': np.array([self.vocabulary.class_names[index] for index in present])},
        )


def write_image(path: str | Path, image: Image.Image) -> None:
    """PNG, written atomically."""
    with atomic_write(path) as file:
        image.save(file, format='PNG')


def write_json(path: str | Path, values: Any) -> None:
    """UTF-8 JSON, written atomically."""
    with atomic_write(path, 'w') as file:
        json.dump(values, file, ensure_ascii=False, indent=1)
        file.write('\n')
