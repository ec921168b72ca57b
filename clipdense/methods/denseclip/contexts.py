"""Learned context tokens before class names.

K: class names, L: tokens, C: width, D: joint space, n: contexts.

Source: DenseCLIP section 3.2; raoyongming/DenseCLIP ``CLIPTextContextEncoder``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.frozen_text import FrozenText
from clipdense.clip.text import TextTransformer, arrange_tokens, end_of_text
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary


def check_tower(clip: FrozenText) -> None:
    """Refuse text towers that cannot take context tokens.

    Raises:
        InputError: not a causal text tower of CLIP.
    """
    text = clip.text
    if not isinstance(text, TextTransformer) or not text.flavour.causal:
        raise InputError(
            "learned contexts need a causal text tower, as OpenAI's CLIP has: use another CLIP, or n_ctx=0"
        )


def embed_names(clip: FrozenText, names: Sequence[str], contexts: Tensor) -> Tensor:
    """[start of text, contexts, name, end of text] -> (K, D), not normalized; gradients reach the contexts.

    Args:
        clip: the frozen text tower and its tokenizer.
        names: K class names, without template.
        contexts: (n, C).

    Raises:
        InputError: a class name that leaves no room for the contexts.
    """
    text = clip.text
    assert isinstance(text, TextTransformer)
    device = text.token_embed.weight.device
    token_ids = torch.as_tensor(np.asarray(clip.tokenizer(list(names)))).to(device)  # (K, L)
    eot = end_of_text(token_ids, text.size.eos_token_id)  # (K,)
    room = text.size.context_length - len(contexts)
    longest = int(eot.argmax())
    if int(eot[longest]) + 1 > room:
        raise InputError(
            f'class name {names[longest]!r} has {int(eot[longest]) - 1} tokens; {len(contexts)} learned '
            f'contexts leave room for {max(room - 2, 0)} of {text.size.context_length}: use a shorter name'
        )
    embeddings = text.token_embed(token_ids[:, : int(eot.max()) + 1])  # (K, L, C)
    count = len(contexts)
    first, length = count, embeddings.shape[1]  # of start of text
    order = torch.tensor([first, *range(count), *range(first + 1, first + length)], device=device)
    prompts = arrange_tokens(contexts, embeddings, order)  # (K, L + n, C)
    return text.project(text.forward_embeddings(prompts, eot + count))


class ContextEmbedder:
    """A ``ClassEmbedder``: learned contexts instead of templates.

    Args:
        clip: the frozen text tower.
        contexts: (n, C).
    """

    uses_templates = False

    def __init__(self, clip: FrozenText, contexts: Tensor) -> None:
        self.clip, self.contexts = clip, contexts

    @torch.no_grad()
    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """Unit rows, one for each query."""
        names, classes = zip(*vocabulary.queries, strict=True)
        rows = F.normalize(embed_names(self.clip, names, self.contexts).float(), dim=-1)
        return ClassEmbeddings(rows, torch.tensor(classes, device=rows.device), len(vocabulary))
