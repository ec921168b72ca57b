"""One call for one result: the predictor is made on the first call and kept for the next."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from clipdense.utils.errors import InputError

from .classifier import Classifier
from .detector import Detector
from .load import ClassNames
from .reading import ImageSource
from .results import Classification, Detections, Segmentation
from .segmenter import Segmenter

DEFAULT_WEIGHTS = 'ViT-B-16/openai'
_KEPT = 2  # predictors, each with its model


def segment(
    image: ImageSource,
    class_names: ClassNames,
    weights: str | Path = DEFAULT_WEIGHTS,
    *,
    method: str | None = None,
    device: str | None = None,
    **options: Any,
) -> Segmentation | list[Segmentation]:
    """Segment an image by class names.

    The last two models stay in memory.  Where several are used in turn, or more of their settings, make a
    ``Segmenter``.

    Args:
        image: a path, PIL image or RGB array (H, W, 3); a list of them gives a list of results.
        class_names: the classes, or a ``Vocabulary``.
        weights: a name from ``list_models()``, 'embedded', or a file.
        method: a name from ``list_methods()``; the default of the weights without it.
        device: of the model; None means the GPU if there is one.
        options: of the call of a ``Segmenter``, such as ``keep_probabilities=True``.

    Raises:
        InputError: as ``Segmenter``.

    Example:
        >>> segment('street.jpg', ['car', 'road', 'tree']).draw().save('out.png')
    """
    return _predictor(Segmenter, weights, device, method=method)(image, class_names, **options)


def classify(
    image: ImageSource,
    class_names: ClassNames,
    weights: str | Path = DEFAULT_WEIGHTS,
    *,
    device: str | None = None,
    **options: Any,
) -> Classification | list[Classification]:
    """Classify an image by class names; arguments as those of ``segment``.

    Raises:
        InputError: as ``Classifier``.

    Example:
        >>> classify('photo.jpg', ['cat', 'dog']).top(1)
    """
    return _predictor(Classifier, weights, device)(image, class_names, **options)


def detect(
    image: ImageSource,
    class_names: ClassNames,
    weights: str | Path,
    *,
    method: str | None = None,
    device: str | None = None,
    **options: Any,
) -> Detections | list[Detections]:
    """Detect objects by class names; arguments as those of ``segment``.

    Args:
        weights: of a detector; a CLIP needs a ``method`` that makes it one.

    Raises:
        InputError: as ``Detector``.

    Example:
        >>> detect('street.jpg', ['car', 'traffic light'], 'vild.safetensors').xyxy
    """
    return _predictor(Detector, weights, device, method=method)(image, class_names, **options)


def _predictor(kind: Any, weights: str | Path, device: str | None, **settings: Any) -> Any:
    """The predictor of these arguments; made again if it is not among the last ones or its file has changed.

    Raises:
        InputError: weights that are a model.
    """
    if not isinstance(weights, str | Path):
        raise InputError(
            f'weights must be a name or a file, got {type(weights).__name__}: use '
            f'clipdense.{kind.__name__}.from_pretrained(...) for a model'
        )
    return _made(kind, str(weights), device, tuple(settings.items()), _version(weights))


def _version(weights: str | Path) -> tuple[Any, ...]:
    """What changes with a file; empty for names."""
    try:
        found = os.stat(weights)
    except (OSError, ValueError):
        return ()
    return os.path.realpath(weights), found.st_mtime_ns, found.st_size


@lru_cache(maxsize=_KEPT)
def _made(kind: Any, weights: str, device: str | None, settings: Any, version: Any) -> Any:
    return kind.from_pretrained(weights, device=device, **dict(settings))
