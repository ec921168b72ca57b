"""Learned prompts as class embeddings of any classifier, segmenter or detector.

K: classes, Q: queries, D: joint space.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipdense.clip.class_embeddings import ClassEmbedder
from clipdense.clip.embedding_files import checked_embeddings
from clipdense.clip.model import CLIP
from clipdense.layers.precision import at_least_fp32, no_autocast
from clipdense.registry import CLASS_EMBEDDERS
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.utils.modules import evaluating
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import WeightsFile

from .checkpoint import load_prompts
from .learner import PromptLearner
from .texts import ClassTexts, WithText, text_tower

_BATCH = 256  # texts


@CLASS_EMBEDDERS.register_module()
class LearnedPrompts:
    """A ``ClassEmbedder`` by the prompts of a learner.

    Args:
        learner: a ``PromptLearner``, or a file as ``load_prompts`` takes it, then with ``clip``.
        clip: the CLIP of a file.

    Raises:
        InputError: as ``load_prompts``.
    """

    uses_templates = False

    def __init__(self, learner: PromptLearner | str | WeightsFile, clip: WithText | None = None) -> None:
        if not isinstance(learner, PromptLearner):
            if clip is None:
                raise InputError('prompts of a file need the CLIP that they were learned for: give clip')
            learner = load_prompts(learner, clip)
        self.learner = learner
        self._texts: tuple[Vocabulary | None, list[ClassTexts]] = None, []  # of the last vocabulary

    @property
    def per_image(self) -> bool:
        """Whether class embeddings depend on the image: then ``embed_for`` is used instead of ``embed``."""
        return self.learner.conditional

    @property
    def changes_images(self) -> bool:
        """Whether the image tower gets prompts."""
        return self.learner.changes_images

    def image_prompts(self) -> tuple[Tensor, ...]:
        """Prompts of the image tower, on its device."""
        return self._placed().image_prompts()

    def embed(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """One embedding for each query.

        Raises:
            InputError: prompts that depend on the image; a name without a context of its own; a prompt that
                is too long; or embeddings that are not finite.
        """
        if self.per_image:
            raise InputError(
                'these prompts depend on the image (CoCoOp): class embeddings cannot be computed without one'
            )
        return self._embed(vocabulary, None)

    def check(self, vocabulary: Vocabulary) -> None:
        """Check that the vocabulary can be embedded.

        Raises:
            InputError: as ``embed``.
        """
        self._texts_of(vocabulary)

    def embed_for(self, vocabulary: Vocabulary, image: Image.Image) -> ClassEmbeddings:
        """One embedding for each query, for one image: a pass of all texts through the text tower.

        Raises:
            InputError: as ``embed``, or a model without the image tower of its CLIP.
        """
        clip = self.learner.clip
        if not isinstance(clip, CLIP):
            raise InputError('prompts that depend on the image need the image tower of their CLIP')
        device = next(clip.parameters()).device
        with torch.no_grad():
            pixels = clip.preprocess(image)[None].to(device)
            embedding = F.normalize(at_least_fp32(clip.encode_image(pixels)), dim=-1)  # (1, D)
        return self._embed(vocabulary, embedding)

    def _embed(self, vocabulary: Vocabulary, image: Tensor | None) -> ClassEmbeddings:
        learner, rows = self._placed(), []
        with evaluating(learner), no_autocast(self._device()):
            for texts in self._texts_of(vocabulary):
                found = learner(image, texts)  # (K, D), or (1, K, D)
                rows.append(found[0] if found.ndim == 3 else found)
        return checked_embeddings(torch.cat(rows).float(), vocabulary, 'the learned prompts')

    def _texts_of(self, vocabulary: Vocabulary) -> list[ClassTexts]:
        """The texts of the queries in batches; kept, since prompts may be asked for with every image."""
        known, texts = self._texts
        if known is not vocabulary:
            names = [name for name, _ in vocabulary.queries]
            starts = range(0, len(names), _BATCH)
            texts = [self.learner.texts_of(names[start : start + _BATCH]) for start in starts]
            self._texts = vocabulary, texts
        return texts

    def _device(self) -> torch.device:
        return text_tower(self.learner.clip).token_embed.weight.device

    def _placed(self) -> PromptLearner:
        """The learner on the device of its CLIP, which may have been moved."""
        return self.learner.to(self._device())


def from_file(file: WeightsFile, prompts: ClassEmbedder) -> LearnedPrompts:
    """The prompts of a file, for the CLIP that ``prompts`` uses.

    Raises:
        InputError: a model without a text tower, or as ``load_prompts``.
    """
    clip: Any = getattr(prompts, 'clip', None)
    if clip is None:
        raise InputError(
            f'{file.path} has learned prompts, which need the text tower of their CLIP; the model has none'
        )
    return LearnedPrompts(load_prompts(file, clip))
