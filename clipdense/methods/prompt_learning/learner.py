"""Learned context of class names.

B: images, K: classes, L: tokens, n: context tokens, C: width of the text tower, D: joint space.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32
from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, nearest
from clipdense.vocab.names import normalize, places
from clipdense.vocab.vocabulary import Vocabulary

from .texts import ClassTexts, Position, WithText, check_position, class_texts, text_tower, word_tokenizer

_STD = 0.02  # of random contexts
_DEFAULT_CTX = 16


class PromptLearner(nn.Module, ABC):
    """Base of the prompt learners: class names -> class embeddings, through learned token embeddings.

    The CLIP is not part of the module: it is neither trained, moved nor saved with it.

    Args:
        clip: a CLIP, or a ``FrozenText``; its parameters should not need gradients.
        n_ctx: n; None means the number of tokens of ``init``.
        init: words of the context, whose embeddings the context starts from.
        position: see ``class_texts``.

    Attributes:
        clip: the CLIP.
        texts: the classes of ``set_classes``; None before.
        conditional: whether the class embeddings depend on the image.

    Raises:
        InputError: ``n_ctx`` below 1, words without tokens, or a text tower that has no learned prompts.
    """

    conditional: ClassVar[bool] = False
    clip: WithText

    def __init__(
        self, clip: WithText, n_ctx: int | None, init: str | None, position: Position = 'end'
    ) -> None:
        super().__init__()
        text_tower(clip)
        check_position(position)
        self.__dict__['clip'] = clip  # as the class says
        self.init = init.replace('_', ' ') if isinstance(init, str) else init
        self.position = position
        self.n_ctx = count_context(clip, n_ctx, init)
        self.texts: ClassTexts | None = None

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that build this learner for the same CLIP, with its class names if it needs them."""
        return {'n_ctx': self.n_ctx, 'init': self.init}

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of ``set_classes``."""
        return () if self.texts is None else self.texts.names

    def set_classes(self, names: Sequence[str]) -> None:
        """Set the classes of subsequent calls; what was learned does not change.

        Raises:
            InputError: invalid or repeated names, or a name whose prompt is longer than the text tower takes.
        """
        self.texts = self.texts_of(Vocabulary(names).class_names)  # type: ignore[arg-type]

    def texts_of(self, names: Sequence[str]) -> ClassTexts:
        """The texts of class names, which may repeat, as ``forward`` takes them.

        Raises:
            InputError: as ``set_classes``.
        """
        return class_texts(self.clip, names, self.n_ctx, self.init, self.position)

    @abstractmethod
    def forward(self, images: Tensor | None = None, texts: ClassTexts | None = None) -> Tensor:
        """Class embeddings (K, D), or (B, K, D) if they depend on the images; unit norm.

        Args:
            images: (B, D) unit image embeddings, for a conditional learner.
            texts: the classes, those of ``set_classes`` by default.

        Raises:
            InputError: no classes.
        """

    def image_prompts(self) -> tuple[Tensor, ...]:
        """Tokens that the image tower gets, as ``VisionTransformer.prompted`` takes them; () for none."""
        return ()

    @property
    def changes_images(self) -> bool:
        """Whether the image tower gets tokens."""
        return False

    def nearest_words(self, k: int = 1, class_name: str | None = None) -> list[list[tuple[str, float]]]:
        """The tokens whose embeddings are nearest to each learned token of the text tower.

        What was learned need not be close to any word: look at the distances.

        Args:
            k: tokens for each.
            class_name: whose context, if each class has its own.

        Returns:
            For each of the n tokens k pairs of a word and its Euclidean distance, the nearest first.

        Raises:
            InputError: k out of range, no text context, or no such class.
        """
        context = self._context_of(class_name)  # (n, C)
        words = text_tower(self.clip).token_embed.weight
        if not 1 <= k <= len(words):
            raise InputError(f'k must be a number from 1 to {len(words)}, got {k}')
        with torch.no_grad():
            distances = torch.cdist(  # (n, V)
                context.float(), words.float(), compute_mode='donot_use_mm_for_euclid_dist'
            )
            near, ids = distances.topk(k, largest=False)
        decode = word_tokenizer(self.clip).decode
        return [
            [(decode([index]).strip(), distance) for index, distance in zip(row, line, strict=True)]
            for row, line in zip(ids.tolist(), near.tolist(), strict=True)
        ]

    def _context_of(self, class_name: str | None) -> Tensor:
        """The context (n, C) of a class."""
        context = getattr(self, 'ctx', None)
        if context is None:
            raise InputError('no context of the text tower is learned here: its prompts are those of images')
        if class_name is not None:
            raise InputError('all classes share one context: leave out class_name')
        return context

    def _classes(self, texts: ClassTexts | None) -> ClassTexts:
        texts = texts or self.texts
        if texts is None:
            raise InputError('no class names: call set_classes first')
        return texts.to(text_tower(self.clip).token_embed.weight.device)

    def _assemble(self, context: Tensor, texts: ClassTexts) -> Tensor:
        """Context (n, C) or (K, n, C) -> prompts (K, L, C)."""
        return texts.assemble(context, text_tower(self.clip).token_embed(texts.token_ids))

    def _encode(self, prompts: Tensor, texts: ClassTexts, deep: Sequence[Tensor] = ()) -> Tensor:
        """(K, L, C) -> (K, D), unit norm."""
        tower = text_tower(self.clip)
        embeddings = tower.project(tower.forward_embeddings(prompts, texts.eot, deep))
        return F.normalize(at_least_fp32(embeddings), dim=-1)


@MODELS.register_module()
class CoOp(PromptLearner):
    """Context tokens that all classes share, or that each class has for itself.

    Args:
        clip: see ``PromptLearner``.
        n_ctx: n; by default the number of tokens of ``init``, or 16 without it.
        init: words to start from, such as 'a photo of a'; None starts from random numbers.
        class_specific: each class has its own context, which no other class can use.
        position: of the context, see ``class_texts``.
        class_names: the classes; needed for class-specific contexts, else they can be set later.

    Raises:
        InputError: as ``PromptLearner``; words with another number of tokens than ``n_ctx``; or
            class-specific contexts without classes.

    Source: Zhou et al., arXiv 2109.01134, sections 3.2 and 3.3.
    """

    def __init__(
        self,
        clip: WithText,
        n_ctx: int | None = None,
        init: str | None = None,
        class_specific: bool = False,
        position: Position = 'end',
        class_names: Sequence[str] = (),
    ) -> None:
        super().__init__(clip, n_ctx, init, position)
        check_words(clip, self.n_ctx, init)
        context = start_context(clip, self.n_ctx, init)
        self.class_specific = class_specific
        self.known: tuple[str, ...] = ()
        if class_specific and class_names:
            self.known = Vocabulary(class_names).class_names  # type: ignore[arg-type]
        if class_specific and not self.known:
            raise InputError('class_specific=True learns a context for each class: give class_names')
        if class_specific:
            context = context.repeat(len(self.known), 1, 1)
            if init is None:
                nn.init.normal_(context, std=_STD)
        self.ctx = nn.Parameter(context)  # (n, C) or (K, n, C)
        if class_names:
            self.set_classes(class_names)

    @property
    def config(self) -> dict[str, Any]:
        own = {'class_specific': self.class_specific, 'position': self.position}
        return {**super().config, **own, **({'class_names': list(self.known)} if self.known else {})}

    def texts_of(self, names: Sequence[str]) -> ClassTexts:
        """As ``PromptLearner.texts_of``.

        Raises:
            InputError: a class without a context of its own, if contexts are class-specific.
        """
        self._rows(names)
        return super().texts_of(names)

    def prompts(self, texts: ClassTexts | None = None) -> Tensor:
        """Token embeddings (K, L, C), without positions."""
        texts = self._classes(texts)
        context = self.ctx[self._rows(texts.names)] if self.class_specific else self.ctx
        return self._assemble(context, texts)

    def forward(self, images: Tensor | None = None, texts: ClassTexts | None = None) -> Tensor:
        """Class embeddings (K, D), unit norm; ``images`` are not used."""
        texts = self._classes(texts)
        return self._encode(self.prompts(texts), texts)

    def _rows(self, names: Sequence[str]) -> list[int]:
        """Which context each class has, if contexts are class-specific."""
        if not self.class_specific:
            return []
        rows, known = [], places(self.known)
        for name in names:
            row = known.get(normalize(name)) if isinstance(name, str) else None
            if row is None:
                raise InputError(
                    f'the contexts are class-specific: one was learned for each of {len(self.known)} '
                    f'classes, and none for {name!r:.80}; use a context that the classes share '
                    f'(class_specific=False).{nearest(str(name), self.known)}'
                )
            rows.append(row)
        return rows

    def _context_of(self, class_name: str | None) -> Tensor:
        if not self.class_specific:
            return super()._context_of(class_name)
        if class_name is None:
            raise InputError('each class has its own context: give class_name')
        return self.ctx[self._rows([class_name])[0]]


def count_context(clip: WithText, n_ctx: int | None, init: str | None) -> int:
    """n: as given, or the number of tokens of the words, or 16.

    Raises:
        InputError: not a positive number, words without tokens, or more than the text tower takes.
    """
    words = None if init is None else len(_word_ids(clip, init))
    if n_ctx is None:
        return _DEFAULT_CTX if words is None else words
    if not isinstance(n_ctx, int) or isinstance(n_ctx, bool) or n_ctx < 1:
        raise InputError(f'n_ctx must be a whole number of at least 1, got {n_ctx!r}')
    most = clip.text.size.context_length
    if n_ctx + 3 > most:  # a name, and the tokens that begin and end a text
        raise InputError(f'n_ctx={n_ctx} leaves no room for a class name: the text tower takes {most} tokens')
    return n_ctx


def check_words(clip: WithText, n_ctx: int, init: str | None, fewer: bool = False) -> None:
    """Check that words have as many tokens as there are learned ones.

    Args:
        clip, n_ctx, init: of the learner.
        fewer: whether fewer learned tokens than words are allowed.

    Raises:
        InputError: another number of tokens.
    """
    if init is None:
        return
    found = len(_word_ids(clip, init))
    if found == n_ctx or (fewer and n_ctx < found):
        return
    allowed = f'from 1 to {found}' if fewer else str(found)
    raise InputError(
        f'init={init!r:.80} has {found} tokens and n_ctx is {n_ctx}: leave out n_ctx or give {allowed}, or '
        'use init=None, which starts from random numbers'
    )


def start_context(clip: WithText, n_ctx: int, init: str | None) -> Tensor:
    """(n, C): embeddings of the first n tokens of the words, or N(0, 0.02)."""
    table = text_tower(clip).token_embed.weight
    if init is None:
        return nn.init.normal_(torch.empty(n_ctx, table.shape[1], device=table.device), std=_STD)
    ids = torch.tensor(_word_ids(clip, init)[:n_ctx], device=table.device)
    return table.detach()[ids].float()


def _word_ids(clip: WithText, init: str) -> list[int]:
    if not isinstance(init, str) or not (ids := word_tokenizer(clip).encode(init.replace('_', ' '))):
        raise InputError(f"init must be words, such as 'a photo of a', or None, got {init!r:.80}")
    return ids
