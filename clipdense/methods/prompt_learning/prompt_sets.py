"""Several learned contexts as one ``ClassEmbedder``.  K: classes, D: joint space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.embedding_files import checked_embeddings
from clipdense.registry import CLASS_EMBEDDERS
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.vocab.vocabulary import Vocabulary

from .checkpoint import load_prompts
from .learner import PromptLearner
from .texts import WithText, text_tower

_BATCH = 256  # texts


@CLASS_EMBEDDERS.register_module()
class PromptSets:
    """A ``ClassEmbedder``: the normalized sum of the class embeddings of several learned contexts.

    Args:
        learners: learned prompts, or files as ``load_prompts`` takes them, then with ``clip``.
        clip: the CLIP of files.

    Raises:
        InputError: none, prompts that need images, or as ``load_prompts``.

    Source: DetPro section 3.3; dyabel/detpro ``prompt/run.py`` ``load_ens_embedding``.
    """

    uses_templates = False

    def __init__(self, learners: Sequence[PromptLearner | str | Path], clip: WithText | None = None) -> None:
        if not learners or isinstance(learners, str | Path):
            raise InputError('give a list of at least one file of learned prompts')
        self.learners = []
        for one in learners:
            if not isinstance(one, PromptLearner):
                if clip is None:
                    raise InputError('prompts of a file need the CLIP that they were learned for: give clip')
                one = load_prompts(one, clip)
            if one.conditional or one.changes_images:
                raise InputError(
                    f'{type(one).__name__} changes with the image: its class embeddings have no sum'
                )
            self.learners.append(one)

    @torch.no_grad()
    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """One embedding for each query.

        Raises:
            InputError: as ``PromptLearner.texts_of``, or embeddings that are not finite.
        """
        names = [plain_name(name) for name, _ in vocabulary.queries]
        total: Tensor | None = None
        for learner in self.learners:
            learner.to(text_tower(learner.clip).token_embed.weight.device)
            with evaluating(learner):
                rows = [
                    learner(texts=learner.texts_of(names[start : start + _BATCH])).float()
                    for start in range(0, len(names), _BATCH)
                ]
            total = torch.cat(rows) if total is None else total + torch.cat(rows)
        assert total is not None
        return checked_embeddings(F.normalize(total, dim=-1), vocabulary, 'the learned prompts')


def plain_name(name: str) -> str:
    """A class name of LVIS without its parentheses and underscores, as DetPro reads it."""
    return ' '.join(name.replace('(', '').replace(')', '').replace('_', ' ').split())
