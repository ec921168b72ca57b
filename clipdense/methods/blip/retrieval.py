"""Image-text retrieval with a BLIP: as an evaluation, on data of one's own, and for images in Python.

N: images, M: captions, U: different texts among them, S: tokens of an image, W: their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from clipdense.evaluation import captioning
from clipdense.evaluation.own_data import OwnData, captioned_images
from clipdense.evaluation.retrieval import Retrieval, captions_of, recall_at, recalls, unique_rows
from clipdense.registry import EVALUATIONS
from clipdense.utils.errors import InputError
from clipdense.utils.image_io import read_image
from clipdense.utils.modules import evaluating

from .evaluation import blip_of
from .model import Blip
from .ranking import Candidates, Ranking, caption_tokens, check_ranking, embed_texts, rank
from .tokenizer import Tokens

_PADDING = -1


@EVALUATIONS.register_module()
class MatchingRetrieval(Retrieval):
    """Recall in both directions, by similarity (ITC) alone and with the best candidates scored by ITM.

    An image is a hit if any of its captions is among the first k.  A query none of whose correct answers is a
    candidate ranks behind all wrong answers.

    Args:
        dataset: images with ``captions_of(index)``, or its config; it is read twice.
        batch_size: images per batch.
        name: prefix of the names of the results.
        num_workers: processes that read images.
        ks: numbers of retrieved results.
        top_k: candidates of each query; 256 for COCO and 128 for Flickr30k in the release.

    Raises:
        InputError: an image in several rows, or fewer candidates than retrieved results.
    """

    whole_model = True

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 8,
        name: str = 'retrieval',
        num_workers: int = 0,
        ks: Sequence[int] = (1, 5, 10),
        top_k: int = 256,
    ) -> None:
        super().__init__(dataset, batch_size, name, num_workers, ks)
        if top_k < max(self.ks):
            raise InputError(f'top_k={top_k} candidates are fewer than the {max(self.ks)} retrieved results')
        if not hasattr(self.dataset, 'captions_of'):
            raise InputError(f'{name}: the dataset has no captions_of(index), all captions of an image')
        self.top_k = top_k

    def check(self, model: Any) -> None:
        """Refuse a model without both steps, before a training.

        Raises:
            InputError: as ``check_ranking``.
        """
        check_ranking(blip_of(model))

    def __call__(self, model: Any) -> dict[str, float]:
        """Evaluate a BLIP, or a model in training that has one; its mode is restored.

        Returns:
            the scores of ``recall_at`` with prefix ``NAME/``, and with ``NAME/similarity/`` those of the
            similarity alone; and counts ``NAME/images``, ``NAME/texts``.

        Raises:
            InputError: an empty dataset, too many unreadable images, weights that cannot, or embeddings that
                are not finite.
        """
        self.check(model)
        blip = blip_of(model)
        with evaluating(blip):
            images, places = self._embed(blip)
            texts, image_of_text, text_ids = self._texts(blip, places)
            embeddings = embed_texts(blip, texts)
            ranking = rank(blip, self._tokens(blip, places), images, texts, embeddings, self.top_k)
        pairs = torch.stack([image_of_text, text_ids]).unique(dim=1)  # (2, P): image, text
        forward = ranks_of(ranking.texts_of_images, pairs, len(embeddings))
        backward = ranks_of(ranking.images_of_texts, pairs.flip(0), len(images))
        alone = recall_at(images, embeddings, image_of_text, self.ks, text_ids)
        report = {
            **recalls('image_to_text', forward, pairs, len(embeddings), self.ks),
            **recalls('text_to_image', backward, pairs.flip(0), len(images), self.ks),
            **{f'similarity/{key}': value for key, value in alone.items() if 'chance' not in key},
            'images': len(images),
            'texts': len(embeddings),
        }
        return {f'{self.name}/{key}': value for key, value in report.items()}

    def _embed(self, blip: Blip) -> tuple[Tensor, list[int]]:
        """Unit embeddings (N, D), and the places of the images in the dataset."""
        embeddings, places = [], []

        def encode(images: Tensor) -> Tensor:
            return blip.embed_image(blip.encode_image(images))

        for found, _, some in self.readable(blip, 'images', encode):
            embeddings.append(found)
            places += some
        if not places:
            raise InputError(f'{self.name}: the dataset has no images that can be read')
        return torch.cat(embeddings), places

    def _tokens(self, blip: Blip, places: Sequence[int]) -> Iterator[Tensor]:
        """Batches (B, S, W) of the same images; tokens of many images would not fit into memory."""
        read = 0
        for tokens, _, some in self.readable(blip, 'matching', blip.encode_image):
            if some != list(places[read : read + len(some)]):
                raise InputError(f'{self.name}: the dataset has other images when it is read again')
            read += len(some)
            yield tokens

    def _texts(self, blip: Blip, places: Sequence[int]) -> tuple[Tokens, Tensor, Tensor]:
        """The different texts (U, L); image and text (M,) of each caption."""
        captions, owners = captions_of(self.dataset, places)
        ids, keep = caption_tokens(blip, captions)
        rows, text_ids = unique_rows(ids.masked_fill(keep == 0, _PADDING))
        kept = rows != _PADDING
        return (
            Tokens(rows.masked_fill(~kept, blip.text_size.ids.pad), kept.long()),
            torch.tensor(owners),
            text_ids,
        )


def ranks_of(candidates: Candidates, pairs: Tensor, answers: int) -> Tensor:
    """Wrong answers that score at least as high as the best correct one, (Q,).

    Args:
        candidates: of Q queries.
        pairs: (2, P), query and correct answer, each pair once.
        answers: G, number of all answers.

    Returns:
        int64; the number of all wrong answers for queries without a correct candidate.
    """
    places, scores = (part.cpu() for part in candidates)
    queries = torch.arange(len(places))[:, None]
    right = torch.isin(queries * answers + places, pairs[0] * answers + pairs[1])  # (Q, k)
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1)
    wrong_before = (~right & ~(scores < best[:, None])).sum(dim=1)  # NaN counts against the model
    wrong = answers - pairs[0].bincount(minlength=len(places))
    return torch.where(right.any(dim=1), wrong_before, wrong)


def on_own_data(model: Blip, own: OwnData) -> dict[str, float]:
    """Metrics of ``MatchingRetrieval`` on images with captions, or ``CaptionQuality`` of a captioner."""
    if model.joint is None and model.decoder is not None and not model.size.answers:
        return captioning.on_own_data(model, own)
    check_ranking(model)
    return MatchingRetrieval(captioned_images(own, model.preprocess))(model)


def retrieve(
    model: Blip,
    images: Sequence[str | Path | Image.Image],
    texts: Sequence[str],
    top_k: int = 256,
    batch_size: int = 8,
) -> Ranking:
    """The best texts of each image and the best images of each text.

    Args:
        model: weights for retrieval.
        images: N paths or images; each is read and encoded twice.
        texts: U texts.
        top_k: candidates of each query, the most similar ones, that are scored by matching.
        batch_size: images per batch.

    Returns:
        Indices, the best first, with the scores: the matching logit plus the cosine similarity.

    Raises:
        InputError: weights without a joint space or matching head, no images or texts, or an unreadable
            image.
    """
    check_ranking(model)
    if not images or not texts or isinstance(images, str | Path) or isinstance(texts, str):
        raise InputError('retrieval needs a list of images and a list of texts, each with at least one')
    for place, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f'text {place + 1} must be a text that is not empty, got {text!r:.80}')
    with evaluating(model):
        tokens = caption_tokens(model, texts)
        embedded = torch.cat([model.embed_image(one) for one in _encoded(model, images, batch_size)])
        batches = _encoded(model, images, batch_size)
        return rank(model, batches, embedded, tokens, embed_texts(model, tokens), top_k)


def _encoded(model: Blip, images: Sequence[Any], batch_size: int) -> Iterator[Tensor]:
    """Batches of image tokens (B, S, W)."""
    parameter = next(model.parameters())
    for start in range(0, len(images), batch_size):
        some = [model.preprocess(read_image(image)) for image in images[start : start + batch_size]]
        yield model.encode_image(torch.stack(some).to(parameter.device, parameter.dtype))
