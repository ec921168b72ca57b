"""Class names for an image whose classes are not known: from a caption, or from a large class list."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.utils.image_open import MAX_PIXELS
from clipdense.vocab.names import normalize
from clipdense.vocab.noun_phrases import NounExtractor
from clipdense.vocab.vocabulary import Vocabulary

from .captioner import Captioner
from .classifier import Classifier
from .example_images import grid_boxes
from .reading import ImageSource

_LEAST = 0.1  # probability of a name over that of the best one
DEFAULT_LIST = 'ade20k_full'


@dataclass(frozen=True)
class Proposal:
    """Class names that are proposed for an image.

    Args:
        names: the most probable first, or in the order of the caption.
        probabilities: of each name among the class list; empty for names of a caption.
        caption: that the names are from; empty for names of a class list.
    """

    names: tuple[str, ...]
    probabilities: tuple[float, ...] = ()
    caption: str = ''

    def __str__(self) -> str:
        if self.caption:
            return f'{", ".join(self.names)} (from the caption {self.caption!r})'
        listed = zip(self.names, self.probabilities, strict=True)
        return ', '.join(f'{name} {probability:.0%}' for name, probability in listed)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = {'names': list(self.names)}
        if self.caption:
            return {**found, 'caption': self.caption}
        return {**found, 'probabilities': [round(one, 6) for one in self.probabilities]}


class Proposer(Protocol):
    """Proposes class names for an image."""

    def __call__(self, image: ImageSource, max_pixels: int = MAX_PIXELS) -> Proposal:
        """The names for one image.

        Raises:
            InputError: an unreadable image, or no names.
        """


class NamesFromCaption:
    """The noun phrases of a generated caption.

    Args:
        captioner: describes the image.
        count: most names.

    Raises:
        InputError: a count below 1.
    """

    def __init__(self, captioner: Captioner, count: int = 6) -> None:
        self.captioner, self.count = captioner, _checked(count)
        self.phrases = NounExtractor('phrase')

    def __call__(self, image: ImageSource, max_pixels: int = MAX_PIXELS) -> Proposal:
        """See ``Proposer``."""
        (_, caption), *_ = self.captioner.stream([image], max_pixels=max_pixels)
        names: dict[str, str] = {}
        for phrase in self.phrases(caption.text):
            names.setdefault(normalize(phrase), phrase)
        found = list(names.values())[: self.count]
        if not found:
            raise InputError(f'the caption {caption.text!r} has no nouns: give class names')
        return Proposal(tuple(found), caption=caption.text)


class NamesFromList:
    """The names of a class list that an image and parts of it are most similar to.

    The probabilities of the whole image count as much as the mean of those of its quarters and ninths.  Names
    with less than a tenth of the probability of the best one are left out.

    Args:
        classifier: of any CLIP.
        vocabulary: the class list.
        count: most names.

    Raises:
        InputError: a count below 1, or a list of one class.
    """

    def __init__(self, classifier: Classifier, vocabulary: Vocabulary, count: int = 6) -> None:
        if len(vocabulary) < 2:
            raise InputError('names are chosen from a class list of at least 2 classes')
        self.classifier, self.vocabulary, self.count = classifier, vocabulary, _checked(count)

    def __call__(self, image: ImageSource, max_pixels: int = MAX_PIXELS) -> Proposal:
        """See ``Proposer``."""
        whole = read_image(image, max_pixels)
        parts = [whole, *(whole.crop(box) for box in grid_boxes(whole.size, (2, 3)))]
        found = [result.probabilities for result in self.classifier(parts, self.vocabulary)]
        mean = np.mean([found[0], np.mean(found[1:], axis=0)], axis=0)  # (K,)
        order = np.argsort(-mean, kind='stable')[: self.count]
        kept = [index for index in order if mean[index] >= _LEAST * mean[order[0]]]
        names = self.vocabulary.class_names
        return Proposal(tuple(names[index] for index in kept), tuple(float(mean[index]) for index in kept))


def _checked(count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f'the number of names must be a whole number of at least 1, got {count!r}')
    return count
