"""Captions of images: how they are searched for, and what a captioning model answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from clipdense.utils.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from clipdense.clip.preprocess import Preprocess

Search = Literal['beam', 'greedy', 'nucleus']
_DEFAULTS: dict[str, tuple[int, int, float]] = {  # longest, shortest, repetition penalty of each search
    'beam': (20, 5, 1.0),
    'greedy': (20, 5, 1.0),
    'nucleus': (30, 10, 1.1),
}


@dataclass(frozen=True)
class CaptionRules:
    """How a caption is generated.

    Args:
        search: 'beam', the most probable text among ``beams`` candidates; 'greedy', the most probable next
            token; 'nucleus', the next token is drawn from the most probable ones, which gives captions of
            more variety.
        prompt: the beginning of the text, which is not part of the caption.
        beams: candidates of the beam search.
        max_length: most tokens of prompt and caption together, the first and the last one included; 20, or 30
            for 'nucleus'.
        min_length: a caption is not ended before it has this many tokens, the prompt included; 5, or 10 for
            'nucleus'.
        repetition_penalty: logits of tokens that the text has are divided by it (multiplied if negative);
            1 for none, 1.1 for 'nucleus'.
        top_p: 'nucleus' draws from the fewest tokens with this probability together.
        top_k: 'nucleus' draws from at most this many tokens.
        seed: of 'nucleus'; the caption of an image depends on it and on the number of the image only.

    Raises:
        InputError: a value of another type or out of range.
    """

    search: Search = 'beam'
    prompt: str = 'a picture of '
    beams: int = 3
    max_length: int | None = None
    min_length: int | None = None
    repetition_penalty: float | None = None
    top_p: float = 0.9
    top_k: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if self.search not in get_args(Search):
            known = get_args(Search)
            raise InputError(
                f'search must be one of {", ".join(known)}, got {self.search!r}.'
                f'{nearest(str(self.search), known)}'
            )
        if not isinstance(self.prompt, str):
            raise InputError(f'prompt must be a text, got {self.prompt!r:.80}')
        defaults = zip(
            ('max_length', 'min_length', 'repetition_penalty'), _DEFAULTS[self.search], strict=True
        )
        for name, value in defaults:
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name, least in (('beams', 1), ('max_length', 2), ('min_length', 0), ('top_k', 1), ('seed', 0)):
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
                raise InputError(f'{name} must be a whole number of at least {least}, got {value!r}')
        for name, most in (('repetition_penalty', 100.0), ('top_p', 1.0)):
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
            if not number or not 0 < value <= most:
                raise InputError(f'{name} must be a number above 0 and at most {most:g}, got {value!r}')
        if self.shortest > self.longest:
            raise InputError(f'min_length={self.min_length} is more than max_length={self.max_length}')

    @property
    def longest(self) -> int:
        """``max_length``."""
        assert self.max_length is not None
        return self.max_length

    @property
    def shortest(self) -> int:
        """``min_length``."""
        assert self.min_length is not None
        return self.min_length

    @property
    def penalty(self) -> float:
        """``repetition_penalty``."""
        assert self.repetition_penalty is not None
        return float(self.repetition_penalty)


@dataclass(frozen=True)
class Caption:
    """A caption of an image.

    Args:
        text: without the prompt; empty if the model ended it at once.
        score: mean log probability of its tokens, the end included.
    """

    text: str
    score: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {'caption': self.text, 'score': round(self.score, 6)}


class CaptionModel(Protocol):
    """A model that describes images."""

    preprocess: Preprocess

    def check_captions(self, rules: CaptionRules) -> None:
        """Refuse rules that the model cannot follow, and warn of weights that were not trained for captions.

        Raises:
            InputError: as above.
        """

    def caption(self, images: Tensor, rules: CaptionRules, numbers: Sequence[int] = ()) -> list[Caption]:
        """(B, 3, H, W), normalized -> a caption of each.

        Args:
            images: as ``preprocess`` gives them.
            rules: how captions are generated.
            numbers: of the images, which the draws of 'nucleus' depend on; 0, 1, ... by default.
        """
