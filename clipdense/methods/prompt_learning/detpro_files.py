"""Class embeddings from files of DetPro: contexts, and embeddings that were computed from them.

K: classes, D: joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

from clipdense.clip.checkpoint import load
from clipdense.clip.embedding_files import checked_embeddings, load_embeddings
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import BARE, read_weights

from .method import recognize
from .prompt_sets import PromptSets


def class_embeddings(
    files: Sequence[str | Path], vocabulary: Vocabulary, weights: str = 'ViT-B-32/openai'
) -> ClassEmbeddings:
    """The normalized sum of the unit class embeddings of each file.

    Args:
        files: learned contexts; or embeddings (K, D) or (1, K, D) of the class names, in their order.
        vocabulary: the class names.
        weights: the CLIP of the contexts; it is loaded only if there are any.

    Raises:
        InputError: no file, files of both kinds, or as ``load_prompts`` and ``load_embeddings``.
    """
    if not files:
        raise InputError('give at least one file')
    contexts = [file for file in files if _is_context(file)]
    if contexts and len(contexts) < len(files):
        other = next(file for file in files if file not in contexts)
        raise InputError(f'{contexts[0]} has a context and {other} class embeddings: give files of one kind')
    if contexts:
        return PromptSets(contexts, load(weights)).embed(vocabulary)
    rows = torch.stack([load_embeddings(file, vocabulary)[0].queries for file in files]).sum(dim=0)
    return checked_embeddings(F.normalize(rows, dim=-1), vocabulary, 'the sum of the files')


def _is_context(file: str | Path) -> bool:
    """Whether a file has learned prompts: a single tensor is a context if it has no more rows than a text."""
    if Path(file).suffix == '.npy':
        return False
    tensors = read_weights(file).tensors
    if set(tensors) == {BARE}:
        return tensors[BARE].ndim == 2 and len(tensors[BARE]) <= 76
    return recognize(tensors)
