"""Rules that keep or drop image-text pairs, and the hashes by which duplicates are found."""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from clipdense.utils.errors import InputError, nearest
from clipdense.utils.image_io import read_image
from clipdense.utils.image_open import MAX_PIXELS, opened

from .shard_files import RawPair

_ALPHABETS = (
    'arabic armenian bengali cjk cyrillic devanagari ethiopic georgian greek gujarati gurmukhi hangul hebrew '
    'hiragana kannada katakana khmer lao latin malayalam myanmar sinhala tamil telugu thai tibetan'
)
ALPHABETS = tuple(_ALPHABETS.split())
SAME = ('image', 'caption', 'look')  # what may be equal in two samples, see ``FilterRules.unique``
ALPHABET_SHARE = 0.9  # of the letters of a caption
_BATCH = 32


class PairScore(NamedTuple):
    """How well an image and a caption fit.

    Args:
        score: the higher, the better.
        logits: of no match and match, of a model that has both.
    """

    score: float
    logits: tuple[float, float] | None = None


class PairScorer(Protocol):
    """How well images and captions fit, by a model: what ``Method.scorers`` makes.

    Attributes:
        digest: differs for weights with other scores.
        min_score: what a caption needs unless ``FilterRules.min_score`` is given; None for nothing.
        max_score: the highest that there is.
    """

    digest: str
    min_score: float | None
    max_score: float

    def __call__(
        self, images: Sequence[Image.Image], captions: Sequence[Sequence[str]]
    ) -> list[list[PairScore]]:
        """The score of each image with each of its captions."""


@dataclass(frozen=True)
class FilterRules:
    """What a sample needs to be kept; by default nothing is asked.

    A sample with several captions is kept if one of them passes.

    Args:
        min_size: shorter side of the image in pixels.
        max_aspect: longer side divided by the shorter one.
        min_words, max_words: of the caption, between spaces.
        min_chars: of the caption.
        alphabet: names of ``ALPHABETS``; there must be letters, ``ALPHABET_SHARE`` of them of these.
        unique: of samples that are equal in one of these the first is kept: 'image' (the bytes of its file),
            'caption' (but for case and spaces), 'look' (a difference hash of 64 bits of the pixels).
        min_score: of the scorer.
        min_caption_score: of a caption by a model, the mean log probability of its tokens that the model
            wrote with it (at most 0).  Other captions pass.

    Raises:
        InputError: a value out of range, or an unknown name.
    """

    min_size: int = 0
    max_aspect: float | None = None
    min_words: int = 0
    max_words: int | None = None
    min_chars: int = 0
    alphabet: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    min_score: float | None = None
    min_caption_score: float | None = None

    def __post_init__(self) -> None:
        for name in ('min_size', 'min_words', 'min_chars'):
            if getattr(self, name) < 0:
                raise InputError(f'{name} must be at least 0, got {getattr(self, name)}')
        if self.max_aspect is not None and not self.max_aspect >= 1:
            raise InputError(f'max_aspect is longer side / shorter side, at least 1; got {self.max_aspect}')
        if self.max_words is not None and self.max_words < max(self.min_words, 1):
            raise InputError(f'max_words must be at least 1 and min_words, got {self.max_words}')
        if self.min_score is not None and self.min_score != self.min_score:
            raise InputError('min_score must be a number, got nan')
        if self.min_caption_score is not None and not self.min_caption_score <= 0:
            raise InputError(
                'min_caption_score is a mean log probability, which is at most 0 (such as -0.5), got '
                f'{self.min_caption_score}'
            )
        for given, known, what in ((self.alphabet, ALPHABETS, 'alphabet'), (self.unique, SAME, 'unique')):
            for name in given:
                if name not in known:
                    raise InputError(
                        f'{what} must be of {", ".join(known)}; got {name!r}.{nearest(name, known)}'
                    )

    def __bool__(self) -> bool:
        return any(getattr(self, one.name) != one.default for one in fields(self))


class Pair(NamedTuple):
    """A caption of a sample with its score.

    Args:
        caption: the text.
        source: 'web', or 'synthetic' for one by a model.
        score: of the scorer; None without one.
        kept: whether it passes.
    """

    caption: str
    source: str
    score: PairScore | None
    kept: bool


class Verdict(NamedTuple):
    """What the rules say about a sample.

    Args:
        key: of the sample in its shard.
        reason: why it is dropped; '' if it is kept.
        hashes: 64 bits for each entry of ``FilterRules.unique``.
        score: of the scorer, if there is one, for the best caption.
        source: shard and key of the sample that it was copied from.
        pairs: each caption that was scored, or that was asked for its own score.
    """

    key: str
    reason: str
    hashes: tuple[int, ...] = ()
    score: float | None = None
    source: str = ''
    pairs: tuple[Pair, ...] = ()


def judge(pairs: Iterable[RawPair], rules: FilterRules, scorer: PairScorer | None = None) -> list[Verdict]:
    """Apply all rules but those about duplicates, in the order of the samples."""
    found: list[Verdict] = []
    waiting: list[_Waiting] = []
    for pair in pairs:
        passing, improbable, reason = _captions(pair, rules)
        reason = reason or _header_fault(pair.image, rules)
        image = None
        if not reason and (scorer is not None or 'look' in rules.unique):
            image, reason = _pixels(pair.image)
        captions = [one.caption for one in passing]
        hashes = () if reason else tuple(_hash(kind, pair, captions, image) for kind in rules.unique)
        known = tuple(improbable) if scorer else (*passing, *improbable)
        known = known if rules.min_caption_score is not None else ()
        found.append(Verdict(pair.key, reason, hashes, None, pair.source or pair.name, known))
        if not reason and scorer is not None and image is not None:
            sources = [one.source for one in passing]
            waiting.append(_Waiting(len(found) - 1, image, captions, sources))
        if len(waiting) == _BATCH:
            _score(found, waiting, rules, scorer)
    _score(found, waiting, rules, scorer)
    return found


class Seen:
    """Hashes of the samples that were kept so far."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self.kinds = tuple(kinds)
        self._sets: tuple[set[int], ...] = tuple(set() for _ in kinds)

    def duplicate(self, hashes: Sequence[int]) -> str:
        """Why a sample is a duplicate; '' if it is not, and is remembered."""
        for kind, known, one in zip(self.kinds, self._sets, hashes, strict=True):
            if one in known:
                return 'similar image' if kind == 'look' else f'duplicate {kind}'
        for known, one in zip(self._sets, hashes, strict=True):
            known.add(one)
        return ''


def difference_hash(image: Image.Image) -> int:
    """64 bits: whether each of 8 x 8 neighbors in a row is brighter; often equal for copies of other sizes.

    Source: the difference hash (dHash) of N. Krawetz.
    """
    gray = np.asarray(image.convert('L').resize((9, 8), Image.Resampling.BOX), np.int16)
    return int.from_bytes(np.packbits(gray[:, 1:] > gray[:, :-1]).tobytes(), 'big')


def _captions(pair: RawPair, rules: FilterRules) -> tuple[list[Pair], list[Pair], str]:
    """The captions that pass, those that are too improbable; and the fault of the first, if none passes."""
    passing, improbable, faults = [], [], []
    for caption, member in zip(pair.captions, pair.members or ('',) * len(pair.captions), strict=True):
        source = 'synthetic' if 'synthetic' in member else 'web'
        fault = _caption_fault(caption, rules)
        if not fault and source == 'synthetic' and _improbable(pair, rules):
            fault = 'improbable caption'
            improbable.append(Pair(caption, source, None, False))
        if not fault:
            passing.append(Pair(caption, source, None, True))
        faults.append(fault)
    return passing, improbable, '' if passing else faults[0]


def _improbable(pair: RawPair, rules: FilterRules) -> bool:
    """Whether the model that wrote the caption gave it a low score, or none."""
    least, score = rules.min_caption_score, pair.synthetic_score
    return least is not None and not (score is not None and score >= least)


def _caption_fault(caption: str, rules: FilterRules) -> str:
    words = len(caption.split())
    if words < rules.min_words or len(caption) < rules.min_chars:
        return 'short caption'
    if rules.max_words is not None and words > rules.max_words:
        return 'long caption'
    if rules.alphabet:
        letters = [_alphabet(one) for one in unicodedata.normalize('NFKC', caption) if one.isalpha()]
        known = sum(one in rules.alphabet for one in letters)
        if not letters or known < ALPHABET_SHARE * len(letters):
            return 'other alphabet'
    return ''


@functools.lru_cache(maxsize=1 << 16)
def _alphabet(letter: str) -> str:
    return unicodedata.name(letter, '').partition(' ')[0].lower()


def _header_fault(image: bytes, rules: FilterRules) -> str:
    """What the size of an image says, which is read without its pixels."""
    try:
        with opened(image, MAX_PIXELS) as (header, _):
            short, long = sorted(header.size)
    except InputError:
        return 'unreadable image'
    if short < rules.min_size:
        return 'small image'
    if rules.max_aspect is not None and long > rules.max_aspect * short:
        return 'aspect ratio'
    return ''


def _pixels(image: bytes) -> tuple[Image.Image | None, str]:
    try:
        return read_image(image), ''
    except (InputError, MemoryError, RecursionError):
        return None, 'unreadable image'


def _hash(kind: str, pair: RawPair, captions: Sequence[str], image: Image.Image | None) -> int:
    if kind == 'look':
        assert image is not None
        return difference_hash(image)
    data = pair.image
    if kind == 'caption':
        plain = [' '.join(unicodedata.normalize('NFKC', one).casefold().split()) for one in captions]
        data = '\n'.join(plain).encode()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'big')


class _Waiting(NamedTuple):
    """A sample that is to be scored."""

    at: int
    image: Image.Image
    captions: list[str]
    sources: list[str]


def _score(
    found: list[Verdict], waiting: list[_Waiting], rules: FilterRules, scorer: PairScorer | None
) -> None:
    """Score the samples that wait, and empty the list."""
    if scorer is None or not waiting:
        return
    least = scorer.min_score if rules.min_score is None else rules.min_score
    scores = scorer([one.image for one in waiting], [one.captions for one in waiting])
    for one, some in zip(waiting, scores, strict=True):
        passed = [least is None or score.score >= least for score in some]  # not NaN
        pairs = (*map(Pair, one.captions, one.sources, some, passed), *found[one.at].pairs)
        best = max(score.score for score in some)
        low = '' if any(passed) else 'low score'
        found[one.at] = found[one.at]._replace(score=best, reason=low, pairs=pairs)
    waiting.clear()
