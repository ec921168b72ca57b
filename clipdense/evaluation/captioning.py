"""Captions that a model writes, compared with those of people.  B: images, n: words of a phrase, 1 to 4."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import exp, log, sqrt
from statistics import fmean
from typing import Any

from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.tasks.captioning import Caption, CaptionRules
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating

from .embedding import readable_batches
from .own_data import OwnData, captioned_images

_WORD = re.compile(r"\w+(?:[-'’.,:/]\w+)*")
_LONGEST = 4  # n, at most
_SIGMA = 6.0  # words that a caption may be longer or shorter
_SCALE = 10.0
_TINY, _SMALL = 1e-15, 1e-9

Words = Sequence[str]


def words_of(text: str) -> list[str]:
    """The words of a caption that are compared: lower case, without punctuation."""
    return _WORD.findall(text.lower())


def bleu(found: Sequence[Words], known: Sequence[Sequence[Words]]) -> list[float]:
    """BLEU-1 to BLEU-4 of all captions together; of several captions of an image the closest length counts.

    Args:
        found: the words that the model wrote about each image.
        known: of each image, those of people.

    Source: Papineni et al., ACL 2002; coco-caption's ``bleu_scorer.py``, whose numbers these are.
    """
    right, written = [0] * _LONGEST, [0] * _LONGEST
    lengths, closest = 0, 0
    for words, captions in zip(found, known, strict=True):
        lengths += len(words)
        closest += min((abs(len(one) - len(words)), len(one)) for one in captions)[1]
        for n in range(1, _LONGEST + 1):
            most: Counter[Any] = Counter()
            for caption in captions:
                most |= _phrases(caption, n)
            right[n - 1] += (_phrases(words, n) & most).total()
            written[n - 1] += max(0, len(words) - n + 1)
    ratio = (lengths + _TINY) / (closest + _SMALL)
    penalty = exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n in range(1, _LONGEST + 1):
        product *= (right[n - 1] + _TINY) / (written[n - 1] + _SMALL)
        scores.append(product ** (1 / n) * penalty)
    return scores


def cider(found: Sequence[Words], known: Sequence[Sequence[Words]]) -> float:
    """CIDEr-D, the mean over images: 1 is what papers call 100.

    Phrases count the more, the fewer images have them in a caption of people; with one image all count 0.

    Args:
        found, known: as in ``bleu``.

    Source: Vedantam et al., arXiv 1411.5726; coco-caption's ``cider_scorer.py``, whose numbers these are.
    """
    images: Counter[Any] = Counter()
    for captions in known:
        images.update({phrase for one in captions for n in _COUNTS for phrase in _phrases(one, n)})
    rarity = {phrase: log(len(known)) - log(max(1, count)) for phrase, count in images.items()}
    total = 0.0
    for words, captions in zip(found, known, strict=True):
        own = _weighted(words, rarity, log(len(known)))
        each = [_similarity(own, words, _weighted(one, rarity, log(len(known))), one) for one in captions]
        total += _SCALE * fmean(each)
    return total / len(found)


@EVALUATIONS.register_module()
class CaptionQuality:
    """BLEU and CIDEr-D of the captions of a model, against those of people.

    Args:
        dataset: items with ``images`` and ``captions_of(index)``, such as ``CocoCaptions``; or its config.
        rules: how captions are generated, ``CaptionRules`` or their dict.
        batch_size: images per batch.
        name: prefix of the names of the results.
        num_workers: processes that read images.

    Raises:
        InputError: a dataset without captions.
    """

    whole_model = True

    def __init__(
        self,
        dataset: Any,
        rules: CaptionRules | Mapping[str, Any] | None = None,
        batch_size: int = 16,
        name: str = 'captions',
        num_workers: int = 0,
    ) -> None:
        self.dataset: Any = build(dataset, DATASETS)
        if not hasattr(self.dataset, 'captions_of'):
            raise InputError(f'{name}: the dataset has no captions_of(index), all captions of an image')
        self.rules = rules if isinstance(rules, CaptionRules) else CaptionRules(**(rules or {}))
        self.batch_size, self.name, self.num_workers = batch_size, name, num_workers

    def check(self, model: Any) -> None:
        """Refuse a model that does not describe images, before a training.

        Raises:
            InputError: as ``tasks.captioning.CaptionModel.check_captions``.
        """
        if not hasattr(model, 'check_captions'):
            raise InputError(f'{type(model).__name__} does not describe images: use one that does')
        model.check_captions(self.rules)

    def __call__(self, model: Any) -> dict[str, float]:
        """Describe all images; the mode of the model is restored.

        Returns:
            with prefix ``NAME/``: 'CIDEr', 'BLEU-1' to 'BLEU-4', 'words', the mean number of words of a
            caption; and the number of 'images', and of 'unreadable' ones if there are any.

        Raises:
            InputError: a model that does not describe images, or no image that can be read.
        """
        written = self.written(model)
        if not written:
            raise InputError(f'{self.name}: the dataset has no images that can be read')
        found = [words_of(caption.text) for caption in written.values()]
        known = [[words_of(one) for one in self.dataset.captions_of(place)] for place in written]
        report = {'CIDEr': cider(found, known)}
        report |= {f'BLEU-{n}': score for n, score in zip(_COUNTS, bleu(found, known), strict=True)}
        report |= {'words': fmean(map(len, found)), 'images': len(found)}
        lost = len(self.dataset) - len(found)
        report |= {'unreadable': lost} if lost else {}
        return {f'{self.name}/{key}': value for key, value in report.items()}

    def written(self, model: Any) -> dict[int, Caption]:
        """The caption of each image that can be read, by its index."""
        self.check(model)
        found: dict[int, Caption] = {}
        with evaluating(model):
            for images, places in readable_batches(
                model, self.dataset, self.batch_size, self.num_workers, self.name
            ):
                found |= dict(zip(places, model.caption(images, self.rules, places), strict=True))
        return found


def on_own_data(model: Any, own: OwnData) -> dict[str, float]:
    """Metrics of ``CaptionQuality`` with the default rules, on images with captions."""
    return CaptionQuality(captioned_images(own, model.preprocess))(model)


_COUNTS = range(1, _LONGEST + 1)


def _phrases(words: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(n)), strict=False))


def _weighted(words: Words, rarity: Mapping[Any, float], rarest: float) -> list[dict[Any, float]]:
    """Counts of the phrases of each length times how rare they are; ``rarest`` is for unknown ones."""
    return [
        {phrase: count * rarity.get(phrase, rarest) for phrase, count in _phrases(words, n).items()}
        for n in _COUNTS
    ]


def _similarity(
    own: Sequence[Mapping[Any, float]], words: Words, theirs: Sequence[Mapping[Any, float]], caption: Words
) -> float:
    """The mean over lengths of the clipped cosine, lower where the captions differ in length."""
    difference = max(0, len(words) - 1) - max(0, len(caption) - 1)
    total = 0.0
    for mine, known in zip(own, theirs, strict=True):
        product = sum(
            min(value, known[phrase]) * known[phrase] for phrase, value in mine.items() if phrase in known
        )
        norms = sqrt(sum(x * x for x in mine.values())) * sqrt(sum(x * x for x in known.values()))
        total += product / norms if norms else product
    return total / _LONGEST * exp(-(difference**2) / (2 * _SIGMA**2))
