"""From an image, class names and settings to results: everything that the page computes, without the page.

K: classes, (H, W): pixels.
"""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from clipdense.clip.class_embeddings import ClassEmbedder
from clipdense.inference.encoded import Encoded
from clipdense.inference.load import load, load_embedder, load_segmenter, method_of
from clipdense.inference.results import Detections, Segmentation
from clipdense.inference.segmenter import Segmenter
from clipdense.layers.precision import Precision
from clipdense.methods import list_methods
from clipdense.tasks.options import SegmentationOptions
from clipdense.tasks.segmentation import SegmentationModel
from clipdense.utils.errors import InputError
from clipdense.vocab.templates import Templates
from clipdense.vocab.vocabulary import Vocabulary

from .points import BoxPoints, MaskPoints, Points

if TYPE_CHECKING:
    from clipdense.inference.detector import Detector

MAX_NAMES = 500
MAX_NAME = 200  # characters; text towers read 64 to 128 tokens
_GRID = 256  # longer side of the grid of class scores
_KEPT = 8  # class lists and settings that are kept in memory


@dataclass(frozen=True)
class Source:
    """Weights that the page offers.

    Args:
        weights: as ``clipdense.load`` takes them.
        options: settings that suit them; the model's own by default.
        templates: prompt templates; those of the method by default.
    """

    weights: str | Path
    options: SegmentationOptions = field(default_factory=SegmentationOptions)
    templates: Templates | None = None

    @property
    def label(self) -> str:
        """Short name for the page; a path without its folder."""
        path = Path(self.weights)
        return path.name if path.exists() else str(self.weights)


@dataclass(frozen=True)
class Choice:
    """What computes a result: weights and, for plain CLIP weights, a training-free method."""

    label: str
    source: int
    method: str | None


@dataclass(frozen=True)
class Settings:
    """What a visitor sets.

    Args:
        classes: class names, separated by commas or line breaks.
        refine: align masks with the edges of the image.
        background_threshold, area_threshold: see ``SegmentationOptions``; 0 is the model's own.  Above 0, a
            background class is added if there is none.
        score_threshold: of boxes.
    """

    classes: str
    refine: bool = False
    background_threshold: float = 0.0
    area_threshold: float = 0.0
    score_threshold: float = 0.3

    def options(self, own: SegmentationOptions, background: bool) -> SegmentationOptions:
        """Options of a segmenter for a vocabulary with or without ``background``, where thresholds need one.

        Every option that a visitor can change is given: none is left to what another visitor has set.
        """
        return replace(
            own,
            refine=self.refine or own.refine,
            background_threshold=(self.background_threshold or own.background_threshold)
            if background
            else None,
            area_threshold=(self.area_threshold or own.area_threshold) if background else None,
        )

    def vocabulary(self, background: bool = True) -> Vocabulary:
        """The classes, with a background class if a threshold needs one and ``background``.

        Raises:
            InputError: no names, invalid or too many ones, or one that is too long.
        """
        lines = [line.strip().strip(',').strip() for line in str(self.classes).splitlines()]
        text = ', '.join(line for line in lines if line)
        if not text:
            raise InputError("no class names: type some, separated by commas, such as 'cat, sofa, wall'")
        vocabulary = Vocabulary.parse(text)
        if len(vocabulary) > MAX_NAMES:
            raise InputError(
                f'{len(vocabulary)} class names, more than the limit of {MAX_NAMES}: remove some'
            )
        longest = max(vocabulary.class_names, key=len)
        if len(longest) > MAX_NAME:
            raise InputError(
                f'a class name has {len(longest)} characters, more than the limit of {MAX_NAME}: '
                f'{longest[:40]!r}...; separate names with commas'
            )
        needed = background and bool(self.background_threshold or self.area_threshold)
        return vocabulary.with_background() if needed and vocabulary.background is None else vocabulary


@dataclass(frozen=True)
class Answer:
    """A result, what a click on it shows, warnings about the input, and the time it took."""

    result: Segmentation | Detections
    points: Points
    notes: tuple[str, ...]
    seconds: float


class Engine:
    """The models of the page, which take turns.

    Class names and settings belong to a call.  Nothing that a visitor sends is written to disk.

    Args:
        sources: weights; they are loaded at once.
        device, precision: see ``Segmenter``.

    Raises:
        InputError: no weights, weights that cannot be loaded, or that can neither segment nor detect.
    """

    def __init__(
        self, sources: Sequence[Source], device: str | None = None, precision: Precision = 'auto'
    ) -> None:
        if not sources:
            raise InputError('give weights: the page needs at least one model')
        self.sources, self.device, self.precision = list(sources), device, precision
        self._loaded = [load(one.weights, device) for one in self.sources]
        self.choices = [choice for at in range(len(self.sources)) for choice in self._choices(at)]
        self._lock = threading.Lock()
        self._segmenter = lru_cache(_KEPT * len(self.choices))(self._new_segmenter)
        self._model = lru_cache(None)(self._new_model)
        self._detector = lru_cache(None)(self._new_detector)
        for choice in {choice.source: choice for choice in reversed(self.choices)}.values():
            self._model(choice) if self.segments(choice) else self._detector(choice)  # fails now, not later

    def segments(self, choice: Choice) -> bool:
        """Whether the results of a choice are masks (else boxes)."""
        entry = method_of(self._loaded[choice.source])
        return entry is None or entry.task != 'detection'

    def predict(self, image: Image.Image, choice: Choice, settings: Settings) -> Answer:
        """The result of one model.

        Raises:
            InputError: invalid class names or settings.
        """
        begin = time.monotonic()
        result: Segmentation | Detections
        points: Points
        with self._lock, _collected() as notes:
            vocabulary = settings.vocabulary(background=self.segments(choice))
            if self.segments(choice):
                own, background = self._model(choice).own, vocabulary.background is not None
                segmenter = self._segmenter(choice, settings.options(own, background))
                encoded = segmenter.encode(image)
                mask: Segmentation = segmenter(encoded, vocabulary)
                result, points = mask, MaskPoints.of(mask, _probabilities(segmenter, encoded))
            else:
                boxes: Detections = self._detector(choice)(
                    image, vocabulary, score_threshold=settings.score_threshold
                )
                result, points = boxes, BoxPoints.of(boxes)
        return Answer(result, points, tuple(notes), time.monotonic() - begin)

    def _choices(self, at: int) -> Iterator[Choice]:
        model, label = self._loaded[at], self.sources[at].label
        if [one.label for one in self.sources].count(label) > 1:  # files of one name in several folders
            label = f'{label} ({at + 1})'
        if method_of(model) is not None or isinstance(model, SegmentationModel):
            yield Choice(label, at, None)
            return
        kind = getattr(getattr(model, 'image', None), 'kind', '')
        usable = [
            one
            for one in list_methods('segmentation', any_clip=True)
            if kind in one.towers and not one.required
        ]
        if not usable:
            raise InputError(f'{label} ({type(model).__name__}) can neither segment nor detect')
        for one in sorted(usable, key=lambda one: (not one.default, one.name)):
            yield Choice(f'{label} · {one.name}', at, one.name)

    def _new_model(self, choice: Choice) -> _Model:
        source = self.sources[choice.source]
        model = load_segmenter(self._loaded[choice.source], choice.method, self.device)
        embedder = _Remembering(load_embedder(model, None, source.templates, cache=False))
        own = replace(
            source.options,
            background_threshold=model.background_threshold,
            area_threshold=model.area_threshold,
            refine=model.refiner is not None,
        )
        return _Model(model, embedder, own)

    def _new_segmenter(self, choice: Choice, options: SegmentationOptions) -> Segmenter:
        one = self._model(choice)
        return Segmenter(one.model, one.embedder, options, precision=self.precision)

    def _new_detector(self, choice: Choice) -> Detector:
        from clipdense.inference.detector import Detector  # imports torchvision

        source = self.sources[choice.source]
        return Detector.from_pretrained(
            self._loaded[choice.source],
            templates=source.templates,
            device=self.device,
            precision=self.precision,
            cache=False,
        )


def _probabilities(segmenter: Segmenter, encoded: Encoded) -> Tensor:
    """(K, h, w) of an image that was classified just now: the model still has its vocabulary."""
    width, height = encoded.image.size
    scale = min(1.0, _GRID / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return segmenter.model.classify_image(encoded.features, size, every=True).every


class _Model(NamedTuple):
    """A segmentation model, its embedder, and its settings before any visitor came."""

    model: SegmentationModel
    embedder: ClassEmbedder
    own: SegmentationOptions


class _Remembering:
    """A class embedder that keeps the last vocabularies in memory."""

    def __init__(self, embedder: ClassEmbedder) -> None:
        self.embed = lru_cache(_KEPT)(embedder.embed)


@contextmanager
def _collected() -> Iterator[list[str]]:
    """Collect the texts of warnings; one call at a time."""
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter('ignore')
        warnings.simplefilter('always', UserWarning)
        yield found
        texts = dict.fromkeys(str(one.message) for one in caught)
        found += [text for text in texts if 'Triggered internally' not in text]  # torch about itself
