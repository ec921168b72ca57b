"""Results as validated dataclasses.  (H, W): pixels, K: classes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipdense.utils.drawing import count_indices, draw_boxes, overlay, under_legend
from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import atomic_write
from clipdense.utils.image_io import write_mask
from clipdense.utils.palette import class_palette
from clipdense.vocab.vocabulary import Vocabulary

from .display import png, show_image, table
from .result_checks import (
    best_classes,
    check_boxes,
    check_finite,
    check_image,
    check_indices,
    check_masks,
    check_numbers,
    count_classes,
    listed,
    needed_image,
)


@dataclass(frozen=True, repr=False)
class Classification:
    """Probabilities of the classes for one image.

    Args:
        probabilities: (K,), summing to one; to less if the vocabulary has negatives.
        vocabulary: K classes.
        image: the image, after EXIF rotation.

    Raises:
        InputError: a wrong number of probabilities, or values that are not finite.
    """

    probabilities: NDArray[np.floating]
    vocabulary: Vocabulary
    image: Image.Image | None = None

    def __post_init__(self) -> None:
        check_numbers(probabilities=self.probabilities)
        check_image(self.image)
        if self.probabilities.shape != (len(self.vocabulary),):
            raise InputError(
                f'probabilities must have shape ({len(self.vocabulary)},), one for each class of the '
                f'vocabulary, got {self.probabilities.shape}'
            )
        check_finite('probabilities', self.probabilities)

    def __repr__(self) -> str:
        """``Classification(3 classes: cat 70%, dog 20%, cow 10%)``."""
        count = len(self.vocabulary)
        return f'Classification({count_classes(count)}: {listed(dict(self.top(count)))})'

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes, best first, without those below their threshold in the vocabulary."""
        order = np.argsort(-self.probabilities, kind='stable')
        pairs = [(self.vocabulary.class_names[index], float(self.probabilities[index])) for index in order]
        least = self.vocabulary.thresholds
        return [(name, value) for name, value in pairs if value >= least.get(name, 0.0)][:count]

    def show(self, count: int = 5) -> None:
        """Print the most probable classes, one a line."""
        for name, probability in self.top(count):
            print(f'{probability:6.1%}  {printable(name)}')

    def _repr_html_(self) -> str:
        return table(self.top(10))


@dataclass(frozen=True, repr=False)
class Segmentation:
    """A class for each pixel.

    Args:
        mask: (H, W) class indices.
        scores: (H, W) probability of the class of each pixel.
        vocabulary: K classes.
        image: the image, after EXIF rotation; needed by ``draw``.
        class_scores: (K, H, W), see ``probabilities``; None if they were not kept.

    Raises:
        InputError: different sizes, a class index out of range, or scores that are not finite.
    """

    mask: NDArray[np.integer]
    scores: NDArray[np.floating]
    vocabulary: Vocabulary
    image: Image.Image | None = None
    class_scores: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        check_numbers(mask=self.mask, scores=self.scores)
        check_image(self.image)
        if self.mask.ndim != 2 or self.scores.shape != self.mask.shape:
            shapes = f'{self.mask.shape} and {self.scores.shape}'
            raise InputError(f'mask and scores must have the same shape (H, W), got {shapes}')
        if self.image is not None and self.image.size[::-1] != self.mask.shape:
            raise InputError(
                f'the mask has size {self.mask.shape}, but the image has {self.image.size[::-1]} (height, '
                'width): resize the mask to the image'
            )
        check_indices('the mask', self.mask, self.vocabulary)
        check_finite('scores', self.scores)
        if self.class_scores is not None:
            check_numbers(class_scores=self.class_scores)
            expected = (len(self.vocabulary), *self.mask.shape)
            if self.class_scores.shape != expected:
                raise InputError(f'class_scores must have shape {expected}, got {self.class_scores.shape}')

    @property
    def probabilities(self) -> NDArray[np.floating]:
        """(K, H, W) the probability of each class: of its best name among all names and synonyms.

        Before thresholds, which change ``mask``.  Without synonyms they sum to one at each pixel.

        Raises:
            InputError: they were not kept.
        """
        if self.class_scores is None:
            raise InputError(
                'the probabilities of all classes were not kept: call with keep_probabilities=True (they '
                'take 4 bytes for each class and pixel)'
            )
        return self.class_scores

    def top_k(self, count: int = 5) -> tuple[NDArray[np.integer], NDArray[np.floating]]:
        """The most probable classes of each pixel, best first.

        Returns:
            (k, H, W) class indices and (k, H, W) their probabilities; k is at most K.

        Raises:
            InputError: the probabilities were not kept, or a count below 1.
        """
        return best_classes(self.probabilities, count)

    def __repr__(self) -> str:
        """``Segmentation(640 x 480, 3 of 12 classes: road 50%, sky 38%, car 12%)``, width first."""
        found, (height, width) = self.class_fractions(), self.mask.shape
        count = f'{len(found)} of {count_classes(len(self.vocabulary))}'
        return f'Segmentation({width} x {height}, {count}: {listed(found)})'

    def class_fractions(self) -> dict[str, float]:
        """Fraction of the image that each class covers, largest first; absent classes are left out."""
        counts = count_indices(self.mask, len(self.vocabulary)) / max(1, self.mask.size)
        order = np.argsort(-counts, kind='stable')
        return {self.vocabulary.class_names[index]: float(counts[index]) for index in order if counts[index]}

    def draw(
        self, image: Image.Image | None = None, opacity: float = 0.6, legend: bool = True, side: int = 512
    ) -> Image.Image:
        """The image with the colored mask, an outline around each segment, and a legend.

        Args:
            image: the image; that of the result by default.
            opacity: opacity of the class colors, 0 to 1; the background has no color.
            legend: whether to list the classes below the image.
            side: images at most half as large are enlarged, by an integer factor, up to this longer side.

        Raises:
            InputError: the result has no image and none is passed.
        """
        names = self.vocabulary.class_names
        hidden = () if self._background is None else (names[self._background],)
        image = needed_image(image, self.image)
        return overlay(image, self.mask, names, None, opacity, hidden, legend, side)

    def draw_frame(self, opacity: float = 0.6) -> Image.Image:
        """``draw`` for videos: the image above a legend of all classes, of one size for all frames."""
        names, background = self.vocabulary.class_names, self._background
        hidden = () if background is None else (names[background],)
        drawn = self.draw(opacity=opacity, legend=False, side=1)
        return under_legend(drawn, names, class_palette(len(names), background), hidden)

    def plot(
        self, image: Image.Image | None = None, opacity: float = 0.6, legend: bool = True, side: int = 512
    ) -> NDArray[np.uint8]:
        """``draw`` as an array: (H, W, 3) uint8 RGB; includes the legend unless ``legend=False``."""
        return np.array(self.draw(image, opacity, legend, side))

    def show(self, opacity: float = 0.6) -> None:
        """Show ``draw`` in the notebook or in the system's viewer; warns if there is neither."""
        show_image(self.draw(opacity=opacity), repr(self))

    def _repr_png_(self) -> bytes | None:
        return None if self.image is None else png(self.draw())

    def save(self, path: str | Path) -> Path:
        """Write the mask as a palette PNG of class indices, with the colors of ``draw``."""
        write_mask(path, self.mask, class_palette(len(self.vocabulary), self._background))
        return Path(path)

    @property
    def _background(self) -> int | None:
        """The index of the background class, if there is one."""
        name = self.vocabulary.marking_background().background
        return None if name is None else self.vocabulary.index(name)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON: size, classes, and area fraction and mean score of each class that occurs."""
        return {
            'height': self.mask.shape[0],
            'width': self.mask.shape[1],
            'classes': list(self.vocabulary.class_names),
            'segments': [
                {
                    'class': name,
                    'class_index': self.vocabulary.index(name),
                    'fraction': round(fraction, 6),
                    'score': round(float(self.scores[self.mask == self.vocabulary.index(name)].mean()), 4),
                }
                for name, fraction in self.class_fractions().items()
            ],
        }

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """One COCO result with a run-length mask for each class that occurs; category ids start at 1."""
        return [
            {
                'image_id': image_id,
                'category_id': segment['class_index'] + 1,
                'segmentation': run_lengths(self.mask == segment['class_index']),
                'score': segment['score'],
            }
            for segment in self.to_dict()['segments']
        ]

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each class that occurs (extra ``viz``).

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame(self.to_dict()['segments'], ('class', 'class_index', 'fraction', 'score'))

    def to_supervision(self) -> Any:
        """``supervision.Detections`` with one mask for each class that occurs (extra ``viz``).

        Raises:
            InputError: supervision is not installed.
        """
        supervision = _supervision()
        present = np.unique(self.mask)
        masks = self.mask[None] == present[:, None, None]
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks),
            mask=masks,
            class_id=present.astype(int),
            data={'class_name': np.array([self.vocabulary.class_names[index] for index in present])},
        )


@dataclass(frozen=True, repr=False)
class Detections:
    """Boxes with classes, by decreasing score; fields are named as in ``supervision.Detections``.

    Args:
        xyxy: (n, 4) boxes: x1, y1, x2, y2 in pixels of the image after EXIF rotation.
        confidence: (n,) scores.
        class_ids: (n,) indices into the vocabulary.
        vocabulary: K classes.
        masks: (n, H, W) bool, if the detector predicts masks.
        image: the image, after EXIF rotation; needed by ``draw``.

    Raises:
        InputError: different lengths, a class index out of range, masks of another size than the image, or
            values that are not finite.
    """

    xyxy: NDArray[np.floating]
    confidence: NDArray[np.floating]
    class_ids: NDArray[np.integer]
    vocabulary: Vocabulary
    masks: NDArray[np.bool_] | None = None
    image: Image.Image | None = None

    def __post_init__(self) -> None:
        check_numbers(xyxy=self.xyxy, confidence=self.confidence, class_ids=self.class_ids)
        check_image(self.image)
        shapes = self.xyxy.shape, self.confidence.shape, self.class_ids.shape
        count = len(self.confidence) if self.confidence.ndim else 0
        if shapes != ((count, 4), (count,), (count,)):
            raise InputError(
                'xyxy, confidence and class_ids must have the shapes (n, 4), (n,) and (n,), got '
                f'{shapes[0]}, {shapes[1]} and {shapes[2]}'
            )
        check_boxes(self.xyxy)
        check_finite('confidence', self.confidence)
        check_indices('class_ids', self.class_ids, self.vocabulary)
        if self.masks is not None:
            check_masks(self.masks, count, self.image)

    def __len__(self) -> int:
        return len(self.confidence)

    def __repr__(self) -> str:
        """``Detections(3: 2 cat, 1 dog)``."""
        return f'Detections({len(self)}: {self.summary()})' if len(self) else 'Detections(0)'

    @property
    def class_names(self) -> list[str]:
        """The name of each detection's class."""
        return [self.vocabulary.class_names[index] for index in self.class_ids]

    def summary(self) -> str:
        """``'2 cat, 1 dog'``, or 'nothing found'."""
        counts = Counter(self.class_names)
        return ', '.join(f'{count} {name}' for name, count in counts.most_common()) or 'nothing found'

    def draw(self, image: Image.Image | None = None, opacity: float = 0.4, side: int = 512) -> Image.Image:
        """The image with boxes, class names, scores and, if available, masks.

        Args:
            image: the image; that of the result by default.
            opacity: opacity of the masks, 0 to 1.
            side: images at most half as large are enlarged, by an integer factor, up to this longer side.

        Raises:
            InputError: the result has no image and none is passed.
        """
        image = needed_image(image, self.image)
        notes = [f'{score:.0%}' for score in self.confidence]
        return draw_boxes(
            image, self.xyxy, self.class_names, self.class_ids, self.masks, opacity, notes, side
        )

    def plot(
        self, image: Image.Image | None = None, opacity: float = 0.4, side: int = 512
    ) -> NDArray[np.uint8]:
        """``draw`` as an array: (H, W, 3) uint8 RGB."""
        return np.array(self.draw(image, opacity, side))

    def show(self, opacity: float = 0.4) -> None:
        """Show ``draw`` in the notebook or in the system's viewer; warns if there is neither."""
        show_image(self.draw(opacity=opacity), repr(self))

    def _repr_png_(self) -> bytes | None:
        return None if self.image is None else png(self.draw())

    def save(self, path: str | Path) -> Path:
        """Write ``to_dict`` as JSON."""
        write_json(path, self.to_dict())
        return Path(path)

    def to_dict(self) -> dict[str, Any]:
        """Values for JSON: class, score and box of each detection."""
        return {
            'classes': list(self.vocabulary.class_names),
            'detections': [
                {
                    'class': name,
                    'class_index': int(index),
                    'score': round(float(score), 4),
                    'box': [round(float(value), 2) for value in box],
                }
                for name, index, score, box in zip(
                    self.class_names, self.class_ids, self.confidence, self.xyxy, strict=True
                )
            ],
        }

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """COCO results, with run-length masks if available; category ids start at 1."""
        results = []
        for place, box in enumerate(self.xyxy.astype(float).tolist()):
            x1, y1, x2, y2 = (round(value, 3) for value in box)
            result: dict[str, Any] = {
                'image_id': image_id,
                'category_id': int(self.class_ids[place]) + 1,
                'bbox': [x1, y1, round(x2 - x1, 3), round(y2 - y1, 3)],
                'score': round(float(self.confidence[place]), 6),
            }
            if self.masks is not None:
                result['segmentation'] = run_lengths(self.masks[place])
            results.append(result)
        return results

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each detection (extra ``viz``).

        Raises:
            InputError: pandas is not installed.
        """
        return data_frame(
            self.to_dict()['detections'], ('class', 'class_index', 'score', 'x1', 'y1', 'x2', 'y2')
        )

    def to_supervision(self) -> Any:
        """``supervision.Detections`` (extra ``viz``).

        Raises:
            InputError: supervision is not installed.
        """
        supervision = _supervision()
        return supervision.Detections(
            xyxy=self.xyxy.astype(np.float32),
            confidence=self.confidence.astype(np.float32),
            class_id=self.class_ids.astype(int),
            mask=self.masks,
            data={'class_name': np.array(self.class_names, dtype=str)},
        )


def data_frame(rows: list[dict[str, Any]], columns: Sequence[str]) -> Any:
    """A ``pandas.DataFrame`` of rows of ``to_dict``; a 'box' becomes x1, y1, x2, y2."""
    try:
        import pandas
    except ImportError as error:
        raise InputError(f'pandas is not installed ({error}): pip install "clipdense[viz]"') from error
    flat = [{**row, **dict(zip(('x1', 'y1', 'x2', 'y2'), row.get('box', ()), strict=False))} for row in rows]
    return pandas.DataFrame(flat, columns=list(columns))


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise InputError(f'supervision is not installed ({error}): pip install "clipdense[viz]"') from error
    return supervision


def run_lengths(mask: NDArray) -> dict[str, Any]:
    """(H, W) -> COCO's compressed run-length encoding, for JSON."""
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {'size': [int(side) for side in encoded['size']], 'counts': encoded['counts'].decode()}


def write_image(path: str | Path, image: Image.Image) -> None:
    """Write an image atomically: as JPEG if the name ends in .jpg, else as PNG.

    PNG is compressed at level 3, which takes half the time of Pillow's 6 for files 12 % larger.
    """
    jpeg = Path(path).suffix.lower() in ('.jpg', '.jpeg')
    with atomic_write(path) as file:
        image.save(file, format='JPEG' if jpeg else 'PNG', quality=90, compress_level=3)


def write_json(path: str | Path, values: Any) -> None:
    """Write a UTF-8 JSON file atomically."""
    text = json.dumps(values, ensure_ascii=False, indent=1) + '\n'
    with atomic_write(path) as file:
        file.write(text.encode('utf-8', 'backslashreplace'))  # undecodable bytes of file names: \\udcff
