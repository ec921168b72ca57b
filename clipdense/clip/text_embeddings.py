"""A vocabulary in CLIP's joint space, made once and kept on disk.

Q: queries, D: joint space, T: templates, L: tokens.

Source: openai/CLIP notebooks/Prompt_Engineering_for_ImageNet.ipynb, ``zeroshot_classifier``.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.utils.files import cache_folder, digest
from clipdense.utils.modules import evaluating
from clipdense.utils.progress import track
from clipdense.vocab.templates import fill, get_templates
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights, weights_digest, write_weights

from .frozen_text import FrozenText
from .model import CLIP

_FORMAT = 'clipdense text embeddings 1'
_SORTED_BATCHES = 64  # prompts of so many batches are sorted by length together


def embed_vocabulary(
    clip: CLIP | FrozenText,
    vocabulary: Vocabulary,
    templates: str | Sequence[str] = 'imagenet',
    batch_size: int = 256,
    cache: str | Path | Literal['default'] | None = None,
) -> ClassEmbeddings:
    """The embeddings of every word of a vocabulary.

    Args:
        clip: encodes in evaluation mode without gradients, and is left in the mode that it was found in.
        vocabulary: K classes, Q queries.
        templates: name of a set of prompt templates, or the templates.
        batch_size: prompts encoded at once.
        cache: folder where embeddings are kept, by weights, tokenizer, templates and words; 'default' for the
            user's. Leave it out where the weights are still changing.

    Returns:
        fp32 on the model's device.

    Raises:
        InputError: templates that ``get_templates`` refuses, or weights whose numbers are not finite.
    """
    templates = get_templates(templates)
    file = _cache_file(clip, vocabulary, templates, cache)
    embeddings = _read_cached(file, vocabulary) if file else None
    if embeddings is None:
        words = list(dict.fromkeys(word for word, _ in vocabulary.queries))
        place = {word: index for index, word in enumerate(words)}
        rows = torch.tensor([place[word] for word, _ in vocabulary.queries])
        queries = embed_texts(clip, words, templates, batch_size)
        embeddings = _class_embeddings(queries[rows.to(queries.device)], vocabulary, 'the text tower')
        if file:
            _write_cached(file, vocabulary, embeddings, templates)
    return embeddings.to(_device(clip))


@torch.no_grad()
def embed_texts(
    clip: CLIP | FrozenText,
    texts: Sequence[str],
    templates: str | Sequence[str] = 'name',
    batch_size: int = 256,
) -> Tensor:
    """Texts -> (Q, D) unit rows, fp32: the normalized mean over templates of normalized prompt embeddings.

    A model whose ``unit_prompts`` is false, as a GroupViT, averages prompts of the length that they have.

    Prompts of like length share a batch, so that a causal tower is trimmed to what they need; the result is
    that of any other order.

    Raises:
        InputError: templates that ``get_templates`` refuses, or weights whose numbers are not finite.
    """
    templates, device = get_templates(templates), _device(clip)
    total = -(-len(texts) * len(templates) // batch_size)
    sums: Tensor | None = None
    with evaluating(clip), torch.autocast(device.type, enabled=False):
        batches = _batches(clip.tokenizer, texts, templates, batch_size)
        for token_ids, rows in track(batches, 'Embedding words', total):
            embeddings = clip.encode_text(token_ids.to(device)).float()
            if clip.unit_prompts:
                embeddings = F.normalize(embeddings, dim=-1)
            if sums is None:
                sums = embeddings.new_zeros(len(texts), embeddings.shape[1])
            sums.index_add_(0, rows.to(device), embeddings)
    if sums is None:
        raise InputError('there are no texts to embed')
    return F.normalize(sums, dim=-1)


def save_embeddings(
    path: str | Path, vocabulary: Vocabulary, embeddings: ClassEmbeddings, templates: Sequence[str] = ()
) -> None:
    """Write a safetensors file with ``queries`` (Q, D) and ``query_class`` (Q,), and the words as metadata.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = {'queries': embeddings.queries, 'query_class': embeddings.query_class}
    metadata = {
        'format': _FORMAT,
        'sha256': weights_digest(tensors),
        'vocabulary': json.dumps(vocabulary.to_dict(), ensure_ascii=False),
        'templates': json.dumps(templates, ensure_ascii=False),
    }
    write_weights(path, tensors, metadata)


def load_embeddings(
    path: str | Path, vocabulary: Vocabulary | None = None
) -> tuple[ClassEmbeddings, Vocabulary]:
    """Read what ``save_embeddings`` wrote, or a ``.npy`` array (Q, D) of the words of ``vocabulary``.

    Args:
        path: the file.
        vocabulary: what the rows stand for: needed for ``.npy``, where row q is query q and need not be of
            unit length; checked against the file otherwise.

    Raises:
        InputError: no such file, a damaged one, or one for other words.
    """
    path = Path(path)
    if path.suffix == '.npy':
        if vocabulary is None:
            raise InputError(f'{path} does not say which words its rows are: give the vocabulary')
        return _class_embeddings(F.normalize(_read_npy(path), dim=-1), vocabulary, path), vocabulary
    file = read_weights(path)
    if file.metadata.get('format') != _FORMAT:
        raise InputError(f'{path} holds no text embeddings: make some with `clipdense embed`')
    if file.metadata.get('sha256') != weights_digest(file.tensors):
        raise InputError(f'{path} is damaged: its numbers are not those that were written')
    stored = Vocabulary.from_dict(json.loads(file.metadata['vocabulary']))
    if vocabulary is not None and vocabulary.queries != stored.queries:
        raise InputError(f'{path} is for other words than those of the vocabulary')
    queries = file.tensors['queries'].to(torch.float32, copy=True)  # the file itself may be replaced
    return _class_embeddings(queries, stored, path), stored


def module_digest(module: nn.Module) -> str:
    """SHA-256 over a module's parameters and buffers.

    It is remembered for as long as a checksum of every tensor, which costs a twentieth, stays the same.
    """
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    checksum = _checksum(list(tensors.values()))
    known = _digests.get(module)
    if known is None or known[0] != checksum:
        known = _digests[module] = checksum, weights_digest(tensors)
    return known[1]


_digests: WeakKeyDictionary[nn.Module, tuple[list[int], str]] = WeakKeyDictionary()


def _checksum(tensors: Sequence[Tensor]) -> list[int]:
    sums = []
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        whole = flat.numel() * flat.element_size() % 8 == 0 and flat.storage_offset() == 0
        sums.append(flat.view(torch.int64 if whole else torch.uint8).sum(dtype=torch.int64))
    return torch.stack(sums).tolist() if sums else []


def _batches(
    tokenizer: Callable[..., Any], texts: Sequence[str], templates: Sequence[str], batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids (<= batch_size, L) and the row of each one's text, prompts of like length together."""
    step = max(1, _SORTED_BATCHES * batch_size // len(templates))
    for start in range(0, len(texts), step):
        prompts = [fill(template, text) for text in texts[start : start + step] for template in templates]
        token_ids = torch.as_tensor(np.asarray(tokenizer(prompts)))  # (step * T, L)
        rows = torch.arange(start, start + len(prompts) // len(templates)).repeat_interleave(len(templates))
        by_length = token_ids.argmax(dim=-1).argsort()  # the end-of-text id is the largest
        for places in by_length.split(batch_size):
            yield token_ids[places], rows[places]


def _read_npy(path: Path) -> Tensor:
    try:
        return torch.from_numpy(np.asarray(np.load(path, allow_pickle=False), np.float32))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f'cannot read {path} as an array of numbers: {error}') from error


def _class_embeddings(queries: Tensor, vocabulary: Vocabulary, source: Path | str) -> ClassEmbeddings:
    query_class = torch.tensor([index for _, index in vocabulary.queries], device=queries.device)
    if queries.ndim != 2 or len(queries) != len(query_class):
        shape = tuple(queries.shape)
        raise InputError(
            f'{source} holds numbers of shape {shape} for a vocabulary of {len(query_class)} words'
        )
    if not queries.isfinite().all():
        raise InputError(f'{source}: not all numbers are finite')
    return ClassEmbeddings(queries, query_class, len(vocabulary))


def _cache_file(
    clip: CLIP | FrozenText, vocabulary: Vocabulary, templates: Sequence[str], cache: str | Path | None
) -> Path | None:
    """Where these embeddings are kept; None where they are not."""
    tokenizer = getattr(clip.tokenizer, 'identity', None)
    if cache is None or tokenizer is None:
        return None
    tower = clip.text if type(clip) is CLIP else clip
    words = json.dumps([vocabulary.queries, templates])
    key = digest(_FORMAT, module_digest(tower), repr(getattr(tower, 'size', type(clip))), tokenizer, words)
    try:
        folder = cache_folder() / 'text_embeddings' if cache == 'default' else Path(cache)
    except RuntimeError:  # nobody's home folder can be told
        return None
    return folder / f'{key}.safetensors'


def _read_cached(file: Path, vocabulary: Vocabulary) -> ClassEmbeddings | None:
    with contextlib.suppress(OSError):
        if not file.exists():
            return None
    try:
        return load_embeddings(file, vocabulary)[0]
    except InputError as error:
        warnings.warn(f'cached text embeddings are made again: {error}')
        return None


def _write_cached(
    file: Path, vocabulary: Vocabulary, embeddings: ClassEmbeddings, templates: Sequence[str]
) -> None:
    try:
        save_embeddings(file, vocabulary, embeddings, templates)
    except InputError as error:
        warnings.warn(f'text embeddings are not kept: {error}')


def _device(clip: nn.Module) -> torch.device:
    return next(clip.parameters()).device
