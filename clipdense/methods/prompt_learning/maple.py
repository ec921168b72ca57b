"""Prompts in the first blocks of both towers.

K: classes, L: tokens, n: prompt tokens, J: blocks with prompts, C: width of a tower, D: joint space.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from clipdense.clip.model import CLIP
from clipdense.clip.vit import VisionTransformer
from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .learner import PromptLearner, check_words, start_context
from .texts import ClassTexts, class_texts, start_tokens, text_tower

_STD = 0.02


@MODELS.register_module()
class MaPLe(PromptLearner):
    """Prompts of the text tower, of the image tower, or of both, in the first ``depth`` blocks.

    The published method couples them: prompts of the image tower are linear functions of those of the text
    tower.  ``coupled=False`` is independent vision-language prompting, ``text=False`` deep visual prompting
    (the texts are then the fixed "INIT NAME."), ``image=False`` deep language prompting.

    Args:
        clip: a CLIP; with ``image`` its image tower is a ``VisionTransformer``.
        n_ctx: n, the same in both towers; with ``init`` at most the number of its tokens.
        depth: J.
        init: words, of which the first n tokens are learned and the others stay; None starts from random
            numbers.
        image: prompts of the image tower.
        text: prompts of the text tower.
        coupled: whether those of the image tower are computed from those of the text tower.
        class_names: the classes; they can be set later.

    Raises:
        InputError: as ``PromptLearner``; a depth that a tower does not have; an image tower that takes no
            prompts; or neither tower.

    Source: Khattak et al., arXiv 2210.03117, section 3.2.
    """

    def __init__(
        self,
        clip: CLIP,
        n_ctx: int = 2,
        depth: int = 9,
        init: str | None = 'a photo of a',
        image: bool = True,
        text: bool = True,
        coupled: bool = True,
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(clip, n_ctx, init)
        _check(clip, depth, image, text, init)
        if text:
            check_words(clip, self.n_ctx, init, fewer=True)
        self.depth, self.text, self.image = depth, text, image
        self.coupled = coupled and text and image
        if text:
            self.ctx = nn.Parameter(start_context(clip, self.n_ctx, init))  # (n, C)
            width = self.ctx.shape[1]
            self.compound_prompts_text = nn.ParameterList(
                _random(self.n_ctx, width, self.ctx) for _ in range(depth - 1)
            )
        tower: Any = clip.image if image else None  # a vision transformer
        if self.coupled:
            self.proj = nn.Linear(width, tower.size.width).to(self.ctx.device)
            deep = nn.Linear(width, tower.size.width).to(self.ctx.device)
            self.compound_prompt_projections = nn.ModuleList(deepcopy(deep) for _ in range(depth - 1))
        elif image:
            like, width = tower.pos_embed, tower.size.width
            self.own_image_prompts = nn.ParameterList(_random(self.n_ctx, width, like) for _ in range(depth))
        if class_names:
            self.set_classes(class_names)

    @property
    def config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ('depth', 'image', 'text', 'coupled')}
        return {**super().config, **own}

    @property
    def changes_images(self) -> bool:
        return self.image

    def texts_of(self, names: Sequence[str]) -> ClassTexts:
        """As ``PromptLearner.texts_of``."""
        return class_texts(self.clip, names, self.n_ctx if self.text else 0, self.init, 'end')

    def image_prompts(self) -> tuple[Tensor, ...]:
        """Tokens of the first J blocks of the image tower, (n, C) each."""
        if not self.image:
            return ()
        if not self.coupled:
            return tuple(self.own_image_prompts)
        deep = zip(self.compound_prompt_projections, self.compound_prompts_text, strict=True)
        return self.proj(self.ctx), *(project(prompts) for project, prompts in deep)

    def prompts(self, texts: ClassTexts | None = None) -> Tensor:
        """Token embeddings (K, L, C) of the first block, without positions."""
        texts = self._classes(texts)
        if self.text:
            return self._assemble(self.ctx, texts)
        return text_tower(self.clip).token_embed(texts.token_ids)

    def forward(self, images: Tensor | None = None, texts: ClassTexts | None = None) -> Tensor:
        """Class embeddings (K, D), unit norm; ``images`` are not used."""
        texts = self._classes(texts)
        deep = tuple(self.compound_prompts_text) if self.text else ()
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.text):
            return self._encode(self.prompts(texts), texts, deep)


def _random(n_ctx: int, width: int, like: Tensor) -> nn.Parameter:
    return nn.Parameter(nn.init.normal_(torch.empty(n_ctx, width, device=like.device), std=_STD))


def _check(clip: Any, depth: int, image: bool, text: bool, init: str | None) -> None:
    """Check that the towers take the prompts.

    Raises:
        InputError: what does not fit.
    """
    if not image and not text:
        raise InputError('nothing to learn: set image=True, text=True, or both')
    if not text and init is None:
        raise InputError("text=False keeps fixed texts: give their words, such as init='a photo of a'")
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        raise InputError(f'depth must be a whole number of at least 1, got {depth!r}')
    tower = getattr(clip, 'image', None)
    if image and not isinstance(tower, VisionTransformer):
        kind = type(clip if tower is None else tower).__name__
        raise InputError(
            f'prompts of the image tower need a vision transformer, not {kind}: use image=False, which '
            'learns prompts of the text tower only'
        )
    if text and depth > 1 and start_tokens(clip) != 1:
        raise InputError(
            'prompts in several blocks need texts that begin with a start-of-text token, which this '
            'tokenizer does not give: use depth=1'
        )
    blocks = {'text tower': len(clip.text.blocks) if text else depth}
    blocks['image tower'] = len(tower.blocks) if image and tower is not None else depth
    for name, most in blocks.items():
        if depth > most:
            raise InputError(f'depth={depth}, but the {name} has {most} blocks: use at most {most}')
