"""Files of class embeddings: written and read with the class names of their rows.

Q: queries, D: joint space, T: templates.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.utils.files import regular_file
from clipdense.utils.json_files import parse_json
from clipdense.vocab.names import normalize
from clipdense.vocab.templates import Templates, TemplateSet, get_templates
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import BARE, read_weights, weights_digest, write_weights

FORMAT = 'clipdense text embeddings 1'


def save_embeddings(
    path: str | Path,
    vocabulary: Vocabulary,
    embeddings: ClassEmbeddings,
    templates: Templates | None = None,
) -> None:
    """Write a safetensors file with ``queries`` (Q, D), ``query_class`` (Q,), and class names as metadata.

    ``templates`` (Q, T, D) is added if ``embeddings`` has it.

    Raises:
        InputError: the file cannot be written.
    """
    tensors = {'queries': embeddings.queries, 'query_class': embeddings.query_class}
    if embeddings.templates is not None:
        tensors['templates'] = embeddings.templates
    metadata = {
        'format': FORMAT,
        'sha256': weights_digest(tensors),
        'vocabulary': json.dumps(vocabulary.to_dict(), ensure_ascii=False),
        'templates': json.dumps(get_templates(templates).formats if templates else [], ensure_ascii=False),
    }
    write_weights(path, tensors, metadata)


def load_embeddings(
    path: str | Path, vocabulary: Vocabulary | None = None
) -> tuple[ClassEmbeddings, Vocabulary]:
    """Read a file of ``save_embeddings``, or an array (Q, D) for the class names of ``vocabulary``.

    Args:
        path: the file; an array is a ``.npy`` file, or one of ``torch.save`` (DetPro), also (1, Q, D).
        vocabulary: class names of the rows.  Needed for an array, where row q is query q, not necessarily of
            unit norm; checked against the file otherwise.

    Raises:
        InputError: the file is missing, damaged, or for other class names.
    """
    path = Path(path)
    file = None if path.suffix == '.npy' else read_weights(path)
    if file is None or set(file.tensors) == {BARE}:
        if vocabulary is None:
            raise InputError(f'{path} does not record the class names of its rows: give the vocabulary')
        rows = _read_npy(path) if file is None else file.tensors[BARE].to(torch.float32, copy=True)
        rows = rows[0] if rows.ndim == 3 and len(rows) == 1 else rows
        return checked_embeddings(F.normalize(rows, dim=-1), vocabulary, path), vocabulary
    if file.metadata.get('format') != FORMAT:
        raise InputError(
            f'{path} is not a file of class embeddings (`clipdense embed` writes one) or of learned prompts'
        )
    if file.metadata.get('sha256') != weights_digest(file.tensors):
        raise InputError(f'{path} is damaged: checksum mismatch; create it again with `clipdense embed`')
    source = f'the vocabulary in {path}'
    stored = Vocabulary.from_dict(parse_json(file.metadata.get('vocabulary', ''), source))
    if vocabulary is not None:
        _check_same(stored, vocabulary, path)
    queries = file.tensors['queries'].to(torch.float32, copy=True)  # tensors may be mapped from the file
    templates = file.tensors.get('templates')
    kept = None if templates is None else templates.to(torch.float32, copy=True)
    return checked_embeddings(queries, stored, path, kept), stored


def _check_same(stored: Vocabulary, vocabulary: Vocabulary, path: Path) -> None:
    """Refuse embeddings of other class names, or in another order."""
    kept = [(normalize(name), index) for name, index in stored.queries]
    wanted = [(normalize(name), index) for name, index in vocabulary.queries]
    if kept != wanted:
        pairs = zip_longest(stored.class_names, vocabulary.class_names)
        number, (one, other) = next(
            (
                (number, pair)
                for number, pair in enumerate(pairs)
                if len({normalize(str(n)) for n in pair}) > 1
            ),
            (0, ('', '')),
        )
        where = (
            f': class {number} is {one!r} in the file, {other!r} in the vocabulary' if one != other else ''
        )
        raise InputError(f'{path} is for other class names than those of the vocabulary{where}')


def _read_npy(path: Path) -> Tensor:
    try:
        values = np.load(regular_file(path), allow_pickle=False)
        if not isinstance(values, np.ndarray) or values.dtype.kind not in 'fiu':
            raise ValueError('it has no real numbers')
        return torch.from_numpy(np.asarray(values, np.float32))
    except InputError:
        raise
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise InputError(f'{path} cannot be read as a numeric array: {error}') from error


def checked_embeddings(
    queries: Tensor, vocabulary: Vocabulary, source: Path | str, templates: Tensor | None = None
) -> ClassEmbeddings:
    """Embeddings of the queries of a vocabulary.

    Raises:
        InputError: another number of rows, values that are not finite, or rows of zeros.
    """
    query_class = torch.tensor([index for _, index in vocabulary.queries], device=queries.device)
    if queries.ndim != 2 or len(queries) != len(query_class):
        shape = tuple(queries.shape)
        raise InputError(
            f'{source} has an array of shape {shape}, but the vocabulary needs {len(query_class)} rows'
        )
    if not queries.isfinite().all():
        raise InputError(f'{source} has values that are not finite')
    zero = (queries == 0).all(dim=-1).nonzero()
    if len(zero):
        name = vocabulary.queries[int(zero[0])][0]
        raise InputError(f'{source} has no embedding of {name!r}: its row {int(zero[0])} is zero')
    return ClassEmbeddings(queries, query_class, len(vocabulary), templates)


def read_cached(file: Path, vocabulary: Vocabulary) -> ClassEmbeddings | None:
    """Embeddings from a cache; None if there are none, with a warning if they are damaged."""
    with contextlib.suppress(OSError):
        if not file.exists():
            return None
    try:
        return load_embeddings(file, vocabulary)[0]
    except InputError as error:
        warnings.warn(f'class embeddings cannot be read from the cache and are computed again: {error}')
        return None


def write_cached(
    file: Path, vocabulary: Vocabulary, embeddings: ClassEmbeddings, templates: TemplateSet
) -> None:
    """Write embeddings to a cache, with a warning if that is impossible."""
    try:
        save_embeddings(file, vocabulary, embeddings, templates)
    except InputError as error:
        warnings.warn(f'class embeddings cannot be written to the cache: {error}')
