"""Retrieval: which caption belongs to an image, and which image to a caption?

N: images, M: captions, U: different texts among them, D: joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipdense.clip.model import CLIP
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track

from .embedding import embedded_batches

_SCORES_AT_ONCE = 1 << 22  # 16 MB, which caches can hold; 100,000 x 100,000 would be 40 GB


@EVALUATIONS.register_module()
class Retrieval:
    """Recall from image to text and from text to image.

    An image counts as found its text when any of its captions is among the first k. Captions with the same
    token ids are one text, that belongs to each image it describes: no model could tell them apart.

    Args:
        dataset: images with ``token_ids``; all captions of an image count where the dataset has
            ``captions_of(index)``, and are then tokenised as the model wants. Or its config.
        batch_size: images, and texts, at a time.
        name: what the numbers are filed under.
        num_workers: processes that read images.
        ks: numbers of results that are looked at.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 256,
        name: str = 'retrieval',
        num_workers: int = 0,
        ks: Sequence[int] = (1, 5, 10),
    ) -> None:
        self.dataset = build(dataset, DATASETS)
        self.batch_size, self.name, self.num_workers, self.ks = batch_size, name, num_workers, tuple(ks)

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """Evaluate a model, and leave it as it was.

        Returns:
            see ``recall_at``, each key after ``NAME/``; and ``NAME/images``, ``NAME/texts``, how many there
            are.

        Raises:
            InputError: an empty dataset.
        """
        with evaluating(clip):
            images, tokens = self._embed_images(clip)
            image_of_text = torch.arange(len(images))
            if hasattr(self.dataset, 'captions_of'):
                tokens, image_of_text = self._all_captions(clip, len(images))
            rows, text_ids = unique_rows(tokens)
            texts = self._embed_texts(clip, rows)
            recalls = recall_at(images, texts, image_of_text, self.ks, text_ids)
        report = {**recalls, 'images': len(images), 'texts': len(texts)}
        return {f'{self.name}/{key}': value for key, value in report.items()}

    def _embed_images(self, clip: CLIP) -> tuple[Tensor, Tensor]:
        """Unit embeddings (N, D) and the token ids (N, L) that came with them."""
        embeddings, tokens = [], []
        for batch_embeddings, batch in embedded_batches(
            clip, self.dataset, self.batch_size, self.num_workers, f'{self.name}: images'
        ):
            embeddings.append(batch_embeddings)
            tokens.append(batch['token_ids'])
        if not embeddings:
            raise InputError(f'{self.name}: there is no image to evaluate')
        return torch.cat(embeddings), torch.cat(tokens)

    def _all_captions(self, clip: CLIP, count: int) -> tuple[Tensor, Tensor]:
        """Token ids (M, L) of every caption, and the images (M,) that they belong to."""
        captions, owners = [], []
        for index in range(count):
            found = self.dataset.captions_of(index)
            captions.extend(found)
            owners.extend([index] * len(found))
        return torch.from_numpy(np.asarray(clip.tokenizer(captions))), torch.tensor(owners)

    def _embed_texts(self, clip: CLIP, tokens: Tensor) -> Tensor:
        """Unit embeddings (U, D)."""
        device = next(clip.parameters()).device
        batches = track(tokens.split(self.batch_size), f'{self.name}: texts')
        return torch.cat([clip.encode_text(batch.to(device), normalize=True) for batch in batches])


def recall_at(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    image_of_text: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    text_ids: Tensor | None = None,
) -> dict[str, float]:
    """Recall, chance and median rank, both ways.

    Something is found at k when fewer than k wrong answers score at least as high as its best right one:
    ties count
    against the model.

    Args:
        image_embeddings: (N, D), unit norm.
        text_embeddings: (U, D), unit norm.
        image_of_text: (M,) image of each caption.
        ks: numbers of results that are looked at.
        text_ids: (M,) text of each caption; without it each caption is a text of its own, and M = U.

    Returns:
        for each direction ``image_to_text`` and ``text_to_image``: ``DIRECTION/r<k>``,
        ``DIRECTION/chance_r<k>`` for a random order, and ``DIRECTION/median_rank`` of the best right
        answer, counted from 1.
    """
    text_ids = torch.arange(len(text_embeddings)) if text_ids is None else text_ids
    pairs = torch.stack([image_of_text.cpu(), text_ids.cpu()]).unique(dim=1)  # (2, P): image, text
    images, texts = image_embeddings.float(), text_embeddings.float()
    return {
        **_one_way('image_to_text', images, texts, pairs, ks),
        **_one_way('text_to_image', texts, images, pairs.flip(0), ks),
    }


def unique_rows(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """(M, L) -> the different rows (U, L) in order of appearance, and the number (M,) of each row."""
    numbers: dict[bytes, int] = {}
    ids = [numbers.setdefault(row.tobytes(), len(numbers)) for row in tokens.numpy()]
    first: dict[int, int] = {}
    for place, number in enumerate(ids):
        first.setdefault(number, place)
    return tokens[list(first.values())], torch.tensor(ids)


def _one_way(
    direction: str, queries: Tensor, gallery: Tensor, pairs: Tensor, ks: Sequence[int]
) -> dict[str, float]:
    asked, right = pairs[0].unique(return_counts=True)  # queries with an answer, and how many they have
    ranks = best_ranks(queries, gallery, pairs)[asked]
    report = {f'{direction}/r{k}': (ranks < k).double().mean().item() for k in ks}
    report |= {f'{direction}/chance_r{k}': _chance(right.double(), len(gallery), k) for k in ks}
    report[f'{direction}/median_rank'] = float(np.median(ranks.numpy())) + 1
    return report


def best_ranks(queries: Tensor, gallery: Tensor, pairs: Tensor) -> Tensor:
    """How many wrong answers score at least as high as the best right one.

    Args:
        queries: (Q, D).
        gallery: (G, D).
        pairs: (2, P) query and right answer, each pair once.

    Returns:
        (Q,) int64; G for queries without a right answer.
    """
    order = pairs[0].argsort(stable=True)
    query, answer = pairs[0][order], pairs[1][order]
    wrong = len(gallery) - query.bincount(minlength=len(queries))  # answers
    chunk = max(1, _SCORES_AT_ONCE // len(gallery))
    worse = []
    for start in range(0, len(queries), chunk):
        scores = queries[start : start + chunk] @ gallery.mT  # (chunk, G)
        first, last = torch.searchsorted(query, torch.tensor([start, start + chunk])).tolist()
        row = (query[first:last] - start).to(scores.device)
        column = answer[first:last].to(scores.device)
        best = scores.new_full((len(scores),), -torch.inf)
        best = best.scatter_reduce_(0, row, scores[row, column], 'amax')
        scores[row, column] = torch.inf  # right answers are never worse
        # What is not a number is not worse either, and so counts against the model.
        worse.append(scores.lt_(best[:, None]).sum(1))
    return wrong - torch.cat(worse).cpu().long()


def _chance(right: Tensor, size: int, k: int) -> float:
    """Mean chance that one of ``right`` answers is among the first k of ``size`` in random order."""
    missed = torch.ones_like(right)
    for place in range(min(k, size)):
        missed *= ((size - right - place) / (size - place)).clamp(min=0)
    return 1 - missed.mean().item()
