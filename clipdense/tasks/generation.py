"""Generation of text: greedy, nucleus sampling and beam search, with a cache of what was read.

B: images, R: texts (B, or B times the beams), K: beams, L: tokens so far, V: ids.  All texts have the same
number of tokens at each step; texts that have ended are filled with ``pad``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from clipdense.utils.errors import InputError

from .captioning import CaptionRules

Cache = Sequence[tuple[Tensor, ...]]  # of what a decoder has read; the first axis of each tensor is R
_NEVER = -1e9  # of candidates that must not be chosen
_SEED_STEP = 1_000_003  # between the seeds of two calls, so that their images draw differently


class DecoderIds(NamedTuple):
    """What a decoder writes."""

    vocab_size: int  # V
    positions: int  # most ids of a text
    end: int  # ends a text
    pad: int  # fills texts after their end


class Context(Protocol):
    """What a decoder reads beside the text, computed once for any number of texts."""

    def row(self, index: Tensor) -> Any:
        """The context of these images, (B',) of (B,)."""


class TextDecoder(Protocol):
    """A model that writes texts, one id after another."""

    @property
    def ids(self) -> DecoderIds:
        """Its ids."""

    def step(self, ids: Tensor, context: Any, past: Any = None) -> tuple[Tensor, Cache]:
        """The next ids of texts.

        Args:
            ids: (R, L), of which each reads the ids before it.
            context: of B images; the texts of an image are consecutive.
            past: the cache of the ids before; None at the beginning.

        Returns:
            States (R, L, C), and the cache with these ids.
        """

    def scores(self, states: Tensor) -> Tensor:
        """(..., C) -> scores of the next id (..., V)."""


class Generated(NamedTuple):
    """Texts with their prompts."""

    ids: Tensor  # (B, L), filled with pad after the end
    scores: Tensor  # (B,), mean log probability of the generated ids


class _Texts:
    """Unfinished texts with their cache.

    Args:
        decoder: the model.
        context: of the images.
        prompt: (B, L).
    """

    def __init__(self, decoder: TextDecoder, context: Any, prompt: Tensor) -> None:
        self.decoder, self.context, self.ids = decoder, context, prompt
        self.cache: Cache | None = None
        self.known = 0  # ids in the cache

    def logits(self) -> Tensor:
        """Scores of the next id of each text (R, V), fp32."""
        states, self.cache = self.decoder.step(self.ids[:, self.known :], self.context, self.cache)
        self.known = self.ids.shape[1]
        return self.decoder.scores(states[:, -1]).float()

    def extend(self, ids: Tensor) -> None:
        """Add an id (R,) to each text."""
        self.ids = torch.cat([self.ids, ids[:, None]], dim=1)

    def choose(self, rows: Tensor) -> None:
        """Continue these texts only, (R',) of (R,)."""
        self.ids = self.ids[rows]
        if self.cache is not None:
            self.cache = [tuple(part[rows] for part in one) for one in self.cache]

    def keep_images(self, images: Tensor) -> None:
        """Read these images only, (B',) of (B,)."""
        self.context = self.context.row(images)


@torch.no_grad()
def generate(
    decoder: TextDecoder,
    context: Context,
    prompt: Tensor,
    rules: CaptionRules,
    numbers: Sequence[int] = (),
) -> Generated:
    """Texts that begin with the prompts.

    Args:
        decoder: in evaluation mode.
        context: what it reads, of B images or questions.
        prompt: (B, L).
        rules: see ``CaptionRules``; lengths count the prompt.
        numbers: of the images, see ``CaptionModel.caption``.

    Raises:
        InputError: a prompt without room for a caption, or more tokens than the model has positions.

    Source: transformers generation/utils.py; ids are equal up to the first end, except for draws.
    """
    check_room(decoder, prompt.shape[1], rules)
    texts = _Texts(decoder, context, prompt)
    if rules.search == 'beam' and rules.beams > 1:
        return _beam_search(texts, rules)
    return _one_by_one(texts, rules, numbers or range(len(prompt)))


def check_room(decoder: TextDecoder, length: int, rules: CaptionRules) -> None:
    """Check that a prompt of this length leaves room for a caption.

    Raises:
        InputError: it does not, the model has fewer positions, or fewer ids than there are beams.
    """
    count, positions, _, _ = decoder.ids
    if rules.search == 'beam' and rules.beams > count:
        raise InputError(f'beams={rules.beams} is more than the {count} ids of the vocabulary')
    if rules.longest > positions:
        raise InputError(f'max_length={rules.longest} is more than the {positions} positions of the model')
    if length >= rules.longest:
        raise InputError(
            f'the prompt has {length} tokens, which leaves no room for a caption with '
            f'max_length={rules.longest}: shorten the prompt or raise max_length'
        )


def _one_by_one(texts: _Texts, rules: CaptionRules, numbers: Sequence[int]) -> Generated:
    """Greedy search, or nucleus sampling."""
    _, _, end, pad = texts.decoder.ids
    device, start = texts.ids.device, texts.ids.shape[1]
    draws = [torch.Generator().manual_seed(rules.seed * _SEED_STEP + number) for number in numbers]
    ended = torch.zeros(len(texts.ids), dtype=torch.bool, device=device)
    total, count = torch.zeros(2, len(texts.ids), device=device)
    while texts.ids.shape[1] < rules.longest and not ended.all():
        logits = texts.logits()  # (B, V)
        allowed = _penalized(logits, texts.ids, rules, end)
        if rules.search == 'nucleus':
            uniform = torch.cat([torch.rand(1, generator=one) for one in draws]).to(device)
            chosen = _draw(nucleus(allowed, rules.top_p, rules.top_k).softmax(dim=-1), uniform)
        else:
            chosen = allowed.argmax(dim=-1)  # (B,)
        total += logits.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0].masked_fill(ended, 0)
        count += ~ended
        chosen = chosen.masked_fill(ended, pad)
        texts.extend(chosen)
        ended |= chosen == end
    assert texts.ids.shape[1] > start
    return Generated(texts.ids, total / count)


def _beam_search(texts: _Texts, rules: CaptionRules) -> Generated:
    """Beams by their log probability, ended ones by their mean log probability of an id."""
    _, _, end, pad = texts.decoder.ids
    images, start = texts.ids.shape
    beams, device = rules.beams, texts.ids.device
    best = texts.ids.new_full((images, beams, rules.longest), pad)  # ended texts of each image
    best_scores = torch.full((images, beams), _NEVER, device=device)
    scores = torch.zeros(images, 1, device=device)  # of unfinished texts, (B, K); at first one of each image
    active = torch.arange(images, device=device)  # images whose search goes on
    while len(active):
        length = texts.ids.shape[1] + 1
        log_probs = _penalized(texts.logits().log_softmax(dim=-1), texts.ids, rules, end)
        ranked = (scores.flatten()[:, None] + log_probs).view(len(active), -1)  # (B, K * V)
        found, places = ranked.topk(min(2 * beams, ranked.shape[1]), dim=1)  # (B, 2 K)
        texts_of, ids = places // log_probs.shape[1], places % log_probs.shape[1]
        rows = texts_of + torch.arange(len(active), device=device)[:, None] * scores.shape[1]
        whole = torch.cat([texts.ids[rows], ids[..., None]], dim=2)  # (B, 2 K, length)

        ended = (ids == end) | (length >= rules.longest)
        closing = (found / (length - start)).masked_fill(~ended, _NEVER)[:, :beams]  # only of the first K
        merged = torch.cat([best_scores[active], closing], dim=1)
        kept_scores, order = merged.topk(beams, dim=1)
        padded = best.new_full((len(active), closing.shape[1], rules.longest), pad)
        padded[..., :length] = whole[:, :beams]
        pool = torch.cat([best[active], padded], dim=1)
        best[active] = pool.gather(1, order[..., None].expand(-1, -1, rules.longest))
        best_scores[active] = kept_scores

        scores, order = found.masked_fill(ended, _NEVER).topk(beams, dim=1)  # (B, K)
        going = scores[:, 0] / (length - start) > kept_scores[:, -1]  # could still be among the best
        going &= ~ended.all(dim=1)
        texts.choose(rows.gather(1, order)[going].flatten())
        texts.extend(ids.gather(1, order)[going].flatten())
        if not going.all():
            texts.keep_images(going.nonzero()[:, 0])
            scores, active = scores[going], active[going]
    ids = best[:, 0]
    written = (ids != pad).any(dim=0).nonzero()  # columns with an id of some text
    return Generated(ids[:, : int(written.max()) + 1], best_scores[:, 0])


def _penalized(scores: Tensor, ids: Tensor, rules: CaptionRules, end: int) -> Tensor:
    """Scores (R, V) without an end that is too early, and lower for ids that the text has."""
    if rules.penalty != 1:
        present = scores.gather(1, ids)
        lower = torch.where(present < 0, present * rules.penalty, present / rules.penalty)
        scores = scores.scatter(1, ids, lower)
    if ids.shape[1] < rules.shortest:
        scores = scores.clone()
        scores[:, end] = -torch.inf
    return scores


def nucleus(scores: Tensor, top_p: float, top_k: int) -> Tensor:
    """Scores (R, V) of the most probable ids: at most ``top_k``, the fewest that have ``top_p`` together.

    The others are minus infinity.

    Source: Holtzman et al., arXiv 1904.09751.
    """
    ranked, order = scores.sort(dim=-1, descending=True, stable=True)
    ranked[:, top_k:] = -torch.inf
    probabilities = ranked.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities  # of the ids that are more probable
    ranked = ranked.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(scores).scatter_(1, order, ranked)


def _draw(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """(R, V), (R,) in [0, 1) -> (R,), an id of each row by its probability."""
    total = probabilities.double().cumsum(dim=-1)
    place = torch.searchsorted(total, uniform[:, None].double() * total[:, -1:], right=True)[:, 0]
    return place.clamp_(max=probabilities.shape[1] - 1)
