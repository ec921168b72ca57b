"""Image-text retrieval.

N: images, M: captions, U: different texts among them, D: joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipdense.clip.model import CLIP
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track

from .embedding import check_finite, embedded_batches

_SCORES_AT_ONCE = 1 << 22  # 16 MB, which caches can hold; 100,000 x 100,000 would be 40 GB


@EVALUATIONS.register_module()
class Retrieval:
    """Recall from image to text and from text to image.

    An image is a hit if any of its captions is among the first k.  Captions with the same token ids are one
    text that matches all of their images.  An unreadable image is left out with its captions, and counted.

    Args:
        dataset: images with ``token_ids``; all captions of an image count if the dataset has
            ``captions_of(index)``, tokenized by the model's tokenizer.  Or its config.
        batch_size: images, and texts, per batch.
        name: prefix of the names of the results.
        num_workers: processes that read images.
        ks: numbers of retrieved results.

    Raises:
        InputError: an image in several rows.
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
        self._check_paths(getattr(self.dataset, 'paths', ()))

    def __call__(self, clip: CLIP) -> dict[str, float]:
        """Evaluate a model; its mode is restored.

        Returns:
            the scores of ``recall_at`` with prefix ``NAME/``; and counts ``NAME/images``, ``NAME/texts``.

        Raises:
            InputError: an empty dataset, too many unreadable images, or embeddings that are not finite.
        """
        with evaluating(clip):
            images, tokens, places = self._embed_images(clip)
            image_of_text = torch.arange(len(images))
            if hasattr(self.dataset, 'captions_of'):
                tokens, image_of_text = self._all_captions(clip, places)
            rows, text_ids = unique_rows(tokens)
            texts = self._embed_texts(clip, rows)
            recalls = recall_at(images, texts, image_of_text, self.ks, text_ids)
        report = {**recalls, 'images': len(images), 'texts': len(texts)}
        return {f'{self.name}/{key}': value for key, value in report.items()}

    def readable(
        self, model: Any, title: str, encode: Callable[[Tensor], Tensor] | None = None
    ) -> Iterator[tuple[Tensor, dict[str, Any], list[int]]]:
        """Batches of the readable images: what ``encode`` gives, other entries, places in the dataset.

        Args:
            model: a CLIP, or a model with its ``preprocess``.
            title: of the progress bar.
            encode: see ``embedded_batches``.
        """
        dataset = self.dataset.unreplaced() if hasattr(self.dataset, 'unreplaced') else self.dataset
        first = 0
        for found, batch in embedded_batches(
            model, dataset, self.batch_size, self.num_workers, f'{self.name}: {title}', encode
        ):
            count = len(found)
            read = batch.get('index', torch.arange(count)) >= 0
            rest = {name: value[read] for name, value in batch.items() if isinstance(value, Tensor)}
            places = rest['index'].tolist() if 'index' in rest else list(range(first, first + count))
            first += count
            yield found[read.to(found.device)], rest, places

    def _embed_images(self, clip: CLIP) -> tuple[Tensor, Tensor, list[int]]:
        """Unit embeddings (N, D), token ids (N, L) and indices of the readable images of the dataset."""
        embeddings, tokens = [], []
        places: list[int] = []
        for found, batch, some in self.readable(clip, 'images'):
            embeddings.append(found)
            tokens.append(batch['token_ids'])
            places += some
        if not places:
            raise InputError(f'{self.name}: the dataset has no images that can be read')
        return torch.cat(embeddings), torch.cat(tokens), places

    def _check_paths(self, paths: Sequence[str]) -> None:
        """An image in two rows would be a wrong answer for the captions of the other row."""
        repeated = len(paths) - len({paths[index] for index in range(len(paths))})
        if repeated:
            raise InputError(
                f'{self.name}: {repeated} rows have the image of an earlier row; '
                'pass group=True to the dataset, so that they are one image with several captions'
            )

    def _all_captions(self, clip: CLIP, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Token ids (M, L) of all captions of the images, and the image (M,) of each."""
        captions, owners = captions_of(self.dataset, places)
        return torch.from_numpy(np.asarray(clip.tokenizer(captions))), torch.tensor(owners)

    def _embed_texts(self, clip: CLIP, tokens: Tensor) -> Tensor:
        """Unit embeddings (U, D)."""
        device = next(clip.parameters()).device
        batches = track(tokens.split(self.batch_size), f'{self.name}: texts')
        texts = torch.cat([clip.encode_text(batch.to(device), normalize=True) for batch in batches])
        check_finite(texts, f'{self.name}: the embeddings of the captions')
        return texts


def captions_of(dataset: Any, places: Sequence[int]) -> tuple[list[str], list[int]]:
    """All captions of some images of a dataset, and the position of its image among them for each."""
    captions, owners = [], []
    for owner, place in enumerate(places):
        found = dataset.captions_of(place)
        captions.extend(found)
        owners.extend([owner] * len(found))
    return captions, owners


def recall_at(
    image_embeddings: Tensor,
    text_embeddings: Tensor,
    image_of_text: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    text_ids: Tensor | None = None,
) -> dict[str, float]:
    """Recall, chance and median rank in both directions.

    A query is a hit at k if fewer than k wrong answers score at least as high as its best correct one; ties
    count against the model.

    Args:
        image_embeddings: (N, D), unit norm.
        text_embeddings: (U, D), unit norm.
        image_of_text: (M,) image of each caption.
        ks: numbers of retrieved results.
        text_ids: (M,) text of each caption; without it all captions are different texts and M = U.

    Returns:
        for each direction ``image_to_text`` and ``text_to_image``: ``DIRECTION/r<k>``,
        ``DIRECTION/chance_r<k>`` for a random order, and ``DIRECTION/median_rank`` of the best correct
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
    """(M, L) -> the unique rows (U, L) in order of appearance, and the index (M,) of each row."""
    numbers: dict[bytes, int] = {}
    ids = [numbers.setdefault(row.tobytes(), len(numbers)) for row in tokens.numpy()]
    first: dict[int, int] = {}
    for place, number in enumerate(ids):
        first.setdefault(number, place)
    return tokens[list(first.values())], torch.tensor(ids)


def _one_way(
    direction: str, queries: Tensor, gallery: Tensor, pairs: Tensor, ks: Sequence[int]
) -> dict[str, float]:
    return recalls(direction, best_ranks(queries, gallery, pairs), pairs, len(gallery), ks)


def recalls(
    direction: str, ranks: Tensor, pairs: Tensor, answers: int, ks: Sequence[int]
) -> dict[str, float]:
    """The scores of ``recall_at`` for one direction.

    Args:
        direction: prefix of the names.
        ranks: (Q,), wrong answers before the best correct one.
        pairs: (2, P), query and correct answer, each pair once.
        answers: G, number of all answers.
        ks: numbers of retrieved results.
    """
    asked, right = pairs[0].unique(return_counts=True)  # queries with correct answers, and their number
    ranks = ranks[asked]
    report = {f'{direction}/r{k}': (ranks < k).double().mean().item() for k in ks}
    report |= {f'{direction}/chance_r{k}': _chance(right.double(), answers, k) for k in ks}
    report[f'{direction}/median_rank'] = float(np.median(ranks.numpy())) + 1
    return report


def best_ranks(queries: Tensor, gallery: Tensor, pairs: Tensor) -> Tensor:
    """Number of wrong answers that score at least as high as the best correct one.

    Args:
        queries: (Q, D).
        gallery: (G, D).
        pairs: (2, P) query and correct answer, each pair once.

    Returns:
        (Q,) int64; G for queries without a correct answer.
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
        scores[row, column] = torch.inf  # excludes correct answers
        # NaN is not worse either, and so counts against the model.
        worse.append(scores.lt_(best[:, None]).sum(1))
    return wrong - torch.cat(worse).cpu().long()


def _chance(right: Tensor, size: int, k: int) -> float:
    """Mean probability that one of ``right`` answers is among the first k of ``size`` in random order."""
    missed = torch.ones_like(right)
    for place in range(min(k, size)):
        missed *= ((size - right - place) / (size - place)).clamp(min=0)
    return 1 - missed.mean().item()
