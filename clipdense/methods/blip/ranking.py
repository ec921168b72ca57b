"""Retrieval in two steps: the most similar candidates by embeddings (ITC), scored again by matching (ITM).

N: images, U: texts, k: candidates of a query, L: tokens, S: tokens of an image, W: their width, D: joint
space.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clipdense.utils.errors import InputError

from .model import Blip
from .text import Context
from .tokenizer import Tokens, clean_caption

LONGEST = 35  # tokens of a text, as in the release
TEXTS_AT_ONCE = 64  # that are compared with an image


class Candidates(NamedTuple):
    """The answers to each query."""

    places: Tensor  # (Q, k) int64, among all answers
    scores: Tensor  # (Q, k)

    def ordered(self) -> Candidates:
        """The best first."""
        scores, order = self.scores.sort(dim=1, descending=True, stable=True)
        return Candidates(self.places.gather(1, order), scores)


class Ranking(NamedTuple):
    """Both directions; other answers rank below the candidates."""

    texts_of_images: Candidates  # (N, k)
    images_of_texts: Candidates  # (U, k)


def caption_tokens(model: Blip, texts: Sequence[str]) -> Tokens:
    """Captions as the release cleans them, which start with ``ids.cls``."""
    return model.tokenizer([clean_caption(text) for text in texts], 'cls', LONGEST)


@torch.no_grad()
def embed_texts(model: Blip, texts: Tokens, batch_size: int = 256) -> Tensor:
    """Texts that start with ``ids.cls`` -> unit embeddings (U, D)."""
    device = next(model.parameters()).device
    batches = zip(texts.ids.split(batch_size), texts.keep.split(batch_size), strict=True)
    return torch.cat([model.embed_text(ids.to(device), keep.to(device)) for ids, keep in batches])


def nearest_candidates(queries: Tensor, gallery: Tensor, top_k: int) -> Candidates:
    """The most similar answers: (Q, D), (G, D) -> (Q, k) each, k at most G."""
    found = [(some @ gallery.mT).topk(min(top_k, len(gallery)), dim=1) for some in queries.split(256)]
    scores, places = (torch.cat(part) for part in zip(*found, strict=True))
    return Candidates(places, scores)


def check_ranking(model: Blip) -> None:
    """Check that a model has both steps.

    Raises:
        InputError: weights without a joint space or matching head.
    """
    if not isinstance(model, Blip) or model.joint is None or model.itm_head is None:
        raise InputError(
            f'retrieval needs a BLIP with a joint space and a matching head, got {type(model).__name__}'
            ' without them: use weights for retrieval'
        )


@torch.no_grad()
def rank(
    model: Blip,
    image_tokens: Iterable[Tensor],
    image_embeddings: Tensor,
    texts: Tokens,
    text_embeddings: Tensor,
    top_k: int = 256,
) -> Ranking:
    """Score the most similar candidates of each image and of each text by matching.

    The score is the matching logit plus the similarity of the embeddings, as in the release.  A pair that is
    a candidate in both directions is compared once, and an image is read once for all of its texts.

    Args:
        model: in evaluation mode.
        image_tokens: batches (B, S, W) of ``model.encode_image``, N in all, in the order of
            ``image_embeddings``.
        image_embeddings: (N, D), unit embeddings.
        texts: U texts that start with ``ids.cls``.
        text_embeddings: (U, D), unit embeddings of ``texts``.
        top_k: k; 256 for COCO and 128 for Flickr30k in the release.

    Raises:
        InputError: weights without a joint space or matching head, a ``top_k`` below 1, or other images in
            ``image_tokens``.

    Source: salesforce/BLIP train_retrieval.py ``evaluation``.
    """
    check_ranking(model)
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise InputError(f'top_k must be a whole number of at least 1, got {top_k!r}')
    forward = nearest_candidates(image_embeddings, text_embeddings, top_k)  # (N, k)
    backward = nearest_candidates(text_embeddings, image_embeddings, top_k)  # (U, k)
    order = backward.places.flatten().argsort(stable=True)
    query, column = order // backward.places.shape[1], order % backward.places.shape[1]
    ends = backward.places.flatten().bincount(minlength=len(image_embeddings)).cumsum(dim=0).tolist()
    place = 0
    for tokens in image_tokens:
        context = model.need_encoder().read(tokens)
        for row in range(len(tokens)):
            if place == len(image_embeddings):
                raise InputError(f'image_tokens has more than {len(image_embeddings)} images')
            mine = slice(ends[place - 1] if place else 0, ends[place])
            wanted = torch.cat([forward.places[place], query[mine]])
            compared, back = wanted.unique(return_inverse=True)
            some = context.row(torch.tensor([row], device=tokens.device))
            scores = (
                _match(model, some, texts, compared) + text_embeddings[compared] @ image_embeddings[place]
            )
            width = forward.places.shape[1]
            forward.scores[place] = scores[back[:width]].to(forward.scores.dtype)
            backward.scores[query[mine], column[mine]] = scores[back[width:]].to(backward.scores.dtype)
            place += 1
    if place < len(image_embeddings):
        raise InputError(f'image_tokens has {place} images, the embeddings {len(image_embeddings)}')
    return Ranking(forward.ordered(), backward.ordered())


def _match(model: Blip, context: Context, texts: Tokens, places: Tensor) -> Tensor:
    """The matching logits of an image and some texts, (n,)."""
    device = context.layers[0][0].device
    lengths = texts.keep.sum(dim=1)[places.cpu()]
    order = lengths.argsort(stable=True)
    found = torch.empty(len(places), device=device)
    for some in order.split(TEXTS_AT_ONCE):
        rows, longest = places.cpu()[some], int(lengths[some].max())
        ids, keep = (part[rows, :longest].to(device) for part in texts)
        ids[:, 0] = model.text_size.ids.enc
        found[some.to(device)] = model.match(context, ids, keep)[:, 1].float()
    return found
