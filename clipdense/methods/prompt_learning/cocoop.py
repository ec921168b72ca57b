"""A context that depends on the image.

B: images, K: classes, L: tokens, n: context tokens, C: width of the text tower, D: joint space.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .learner import PromptLearner, check_words, start_context
from .texts import ClassTexts, WithText

_REDUCTION = 16  # of the hidden layer


@MODELS.register_module()
class CoCoOp(PromptLearner):
    """CoOp with a network that shifts all context tokens of an image by one vector.

    Every image needs its own pass of the K texts through the text tower: B K texts for a batch.

    Args:
        clip: a CLIP; see ``PromptLearner``.
        n_ctx: n; by default the number of tokens of ``init``, or 16 without it.
        init: words to start from; None starts from random numbers.
        class_names: the classes; they can be set later.

    Raises:
        InputError: as ``CoOp``.

    Source: Zhou et al., arXiv 2203.05557, section 3.2.
    """

    conditional = True

    def __init__(
        self,
        clip: WithText,
        n_ctx: int | None = None,
        init: str | None = 'a photo of a',
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(clip, n_ctx, init)
        check_words(clip, self.n_ctx, init)
        self.ctx = nn.Parameter(start_context(clip, self.n_ctx, init))  # (n, C)
        dim, width = clip.embed_dim, self.ctx.shape[1]
        hidden = max(1, dim // _REDUCTION)
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(dim, hidden), relu=nn.ReLU(inplace=True), linear2=nn.Linear(hidden, width)
            )
        ).to(self.ctx.device)
        if class_names:
            self.set_classes(class_names)

    def contexts(self, images: Tensor) -> Tensor:
        """Unit image embeddings (B, D) -> the context of each image (B, n, C)."""
        return self.ctx + self.meta_net(images.to(self.ctx.dtype))[:, None]

    def prompts(self, images: Tensor, texts: ClassTexts | None = None) -> Tensor:
        """Unit image embeddings (B, D) -> token embeddings (B, K, L, C), without positions."""
        texts = self._classes(texts)
        return torch.stack([self._assemble(context, texts) for context in self.contexts(images)])

    def forward(self, images: Tensor | None = None, texts: ClassTexts | None = None) -> Tensor:
        """Unit image embeddings (B, D) -> class embeddings of each image (B, K, D), unit norm."""
        if images is None:
            raise InputError('the prompts depend on the image: give image embeddings')
        texts = self._classes(texts)
        contexts = self.contexts(images)
        return torch.stack([self._encode(self._assemble(one, texts), texts) for one in contexts])
