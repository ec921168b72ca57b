"""The text transformer.  K: texts, L: tokens, C: width, D: joint space, n: context tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.attention import KeysValues
from clipdense.layers.depth import parameter_depths
from clipdense.layers.exporting import exporting
from clipdense.layers.packing import Packing
from clipdense.layers.transformer import Block, initialize_blocks, replace_tokens, run_blocks
from clipdense.registry import MODELS
from clipdense.utils.errors import InputError

from .flavours import PAD, TEXT_FLAVOURS
from .sizes import TextSize


@MODELS.register_module()
class TextTransformer(nn.Module):
    """CLIP's text tower.

    In a causal tower the end-of-text token does not attend to later tokens: each text is cut after it and the
    batch is packed without padding.  The result is the same with less computation.

    Args:
        size: widths and depths; or a dict with the fields of ``TextSize``.

    Source: openai/CLIP clip/model.py ``CLIP.encode_text``.
    """

    def __init__(self, size: TextSize | dict) -> None:
        super().__init__()
        self.size = size = TextSize(**size) if isinstance(size, dict) else size
        self.flavour = flavour = TEXT_FLAVOURS[size.flavour]
        self.gradient_checkpointing = False
        width = size.width
        self.token_embed = nn.Embedding(size.vocab_size, width)
        appended = flavour.pool == 'class_token'
        self.class_token = nn.Parameter(torch.empty(width)) if appended else None
        self.pos_embed = nn.Parameter(torch.empty(size.context_length + appended, width))
        self.blocks: Any = nn.ModuleList(
            Block(width, size.num_heads, size.mlp_width, size.activation, flavour.eps)
            for _ in range(size.layers)
        )
        self.norm_post = nn.LayerNorm(width, eps=flavour.eps)
        has_bias = flavour.proj == 'bias'
        self.proj = None if flavour.proj == 'none' else nn.Parameter(torch.empty(width, size.embed_dim))
        self.proj_bias = nn.Parameter(torch.empty(size.embed_dim)) if has_bias else None
        self.reset_parameters()

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        return {'type': type(self), 'size': asdict(self.size)}

    def parameter_depths(self) -> dict[str, int]:
        """0 for what embeds tokens, 1 + i for block i, then the last norm and the projection."""
        blocks = [f'blocks.{index}' for index in range(len(self.blocks))]
        return parameter_depths(self, blocks, first=('token_embed', 'class_token', 'pos_embed'))

    def reset_parameters(self) -> None:
        """OpenAI's initialization (openai/CLIP ``initialize_parameters``)."""
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)
        if self.class_token is not None:
            nn.init.normal_(self.class_token, std=0.01)
        initialize_blocks(list(self.blocks), self.size.width)
        if self.proj is not None:
            nn.init.normal_(self.proj, std=self.size.width**-0.5)
        if self.proj_bias is not None:
            nn.init.zeros_(self.proj_bias)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(K, L) -> features (K, C), before projection.

        Raises:
            ValueError: more tokens than the context length, or a text without its end-of-text token.
        """
        if self.class_token is not None:
            return self._with_class_token(self.token_embed(token_ids), token_ids != PAD)
        if self.flavour.pool == 'last':
            last = torch.full_like(token_ids[:, 0], token_ids.shape[1] - 1)
            return self.forward_embeddings(self.token_embed(token_ids), last)
        eot = end_of_text(token_ids, self.size.eos_token_id)  # (K,)
        if self.flavour.causal and not exporting():
            token_ids = token_ids[:, : int(eot.max()) + 1 if len(eot) else 1]
        return self.forward_embeddings(self.token_embed(token_ids), eot)

    def forward_embeddings(
        self, embeddings: Tensor, eot: Tensor, deep: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Learned prompts: token embeddings (K, L, C) without positions -> features (K, C).

        Args:
            embeddings: (K, L, C); the first token is start-of-text.
            eot: (K,) position of the end-of-text token, from the token ids.
            deep: entry i, (n, C), replaces the n tokens after start-of-text before block i + 1 (MaPLe).
        """
        if self.class_token is not None:
            places = torch.arange(embeddings.shape[1], device=eot.device)
            return self._with_class_token(embeddings, places <= eot[:, None], deep)
        if self.flavour.causal and not exporting() and len(eot):
            embeddings = embeddings[:, : int(eot.max()) + 1]
        x = self._place(embeddings)  # (K, L, C)
        rows = torch.arange(x.shape[0], device=x.device) * x.shape[1] + eot  # the end-of-text tokens
        packing = None
        if self.flavour.causal and not deep and not exporting():
            packing = Packing.of_lengths(eot + 1, x.shape[1])
            x, rows = packing.pack(x), packing.last  # (T, C)
        return self._run(x, rows, deep, causal=self.flavour.causal, packing=packing)

    def encode_tokens(self, token_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """(K, L) -> normalized features of every token (K, L, C), not projected.

        Args:
            token_ids: of K texts.
            mask: (K, L) bool, False for padding, which is not attended to.

        Raises:
            InputError: a tower that pools with a token of its own (CoCa).
            ValueError: more tokens than the context length.
        """
        self._refuse_class_token()
        x = self._place(self.token_embed(token_ids))  # (K, L, C)
        causal = self.flavour.causal
        seen = None if mask is None or causal else mask[:, None].expand(-1, mask.shape[1], -1)  # (K, L, L)
        x = run_blocks(self.blocks, x, causal=causal, mask=seen, checkpointing=self.gradient_checkpointing)
        return self.norm_post(x)

    def step(
        self, token_ids: Tensor, past: Sequence[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """The next tokens of texts, each of which reads those before it, also in a tower that is not causal.

        Args:
            token_ids: (K, L).
            past: the cache of the tokens before them; None at the beginning.

        Returns:
            Normalized features (K, L, C), not projected, and the cache with these tokens, of each block.

        Raises:
            InputError: a tower that pools with a token of its own (CoCa).
            ValueError: more tokens than the context length.
        """
        self._refuse_class_token()
        x = self._place(self.token_embed(token_ids), 0 if past is None else past[0][0].shape[2])  # (K, L, C)
        cache = []
        for number, block in enumerate(self.blocks):
            x, now = block.step(x, None if past is None else past[number])
            cache.append(now)
        return self.norm_post(x), cache

    def project(self, features: Tensor) -> Tensor:
        """(K, C) -> (K, D)."""
        projected = features if self.proj is None else features @ self.proj
        return projected if self.proj_bias is None else projected + self.proj_bias

    def _with_class_token(
        self, embeddings: Tensor, filled: Tensor, deep: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Token embeddings (K, L, C) of texts, which of them are no padding (K, L) -> features (K, C).

        Position j is attended to if token j - 1 is not padding: open_clip's mask is shifted by one, and the
        published weights were trained with it.  Positions that no token attends to are left out.
        """
        assert self.class_token is not None
        count, length, _ = embeddings.shape
        token = self.class_token.to(embeddings.dtype).expand(count, 1, -1)
        x = self._place(torch.cat([embeddings, token], dim=1))  # (K, 1 + L, C)
        seen = F.pad(filled, (1, 0), value=True)  # (K, 1 + L)
        mask = seen[:, None].expand(-1, length + 1, -1).tril()  # (K, 1 + L, 1 + L)
        if not exporting():
            kept = seen.any(dim=0)
            kept[-1] = True
            x, mask = x[:, kept], mask[:, kept][:, :, kept]
        rows = torch.arange(1, count + 1, device=x.device) * x.shape[1] - 1
        return self._run(x, rows, deep, mask=mask)

    def _run(self, x: Tensor, rows: Tensor, deep: Sequence[Tensor] | None, **attention: Any) -> Tensor:
        """Placed tokens (K, L, C) or packed (T, C) -> normalized features (K, C) of the rows."""
        for index, block in enumerate(self.blocks):
            if deep and 1 <= index <= len(deep):
                x = replace_tokens(x, 1, deep[index - 1])
            wanted = rows if index == len(self.blocks) - 1 else None
            x = run_blocks([block], x, rows=wanted, checkpointing=self.gradient_checkpointing, **attention)
        return self.norm_post(x)

    def _refuse_class_token(self) -> None:
        if self.class_token is not None:
            raise InputError('features of tokens need a text tower without a class token (not that of CoCa)')

    def _place(self, embeddings: Tensor, start: int = 0) -> Tensor:
        length = start + embeddings.shape[1]
        if length > len(self.pos_embed):
            appended = len(self.pos_embed) - self.size.context_length
            raise ValueError(
                f'{length - appended} tokens exceed the context length {self.size.context_length} '
                'of the text tower'
            )
        return embeddings + self.pos_embed[start:length].to(embeddings.dtype)


def arrange_tokens(learned: Tensor, tokens: Tensor, order: Tensor) -> Tensor:
    """Learned tokens between or in place of token embeddings -> prompts (K, M, C).

    Args:
        learned: (n, C), or (K, n, C) with tokens for each text.
        tokens: (K, L, C) token embeddings.
        order: (M,) or (K, M), which of ``[n learned tokens, L token embeddings]`` each token of a prompt is.
    """
    learned = learned.to(tokens.dtype).expand(len(tokens), -1, -1)
    both = torch.cat([learned, tokens], dim=1)  # (K, n + L, C)
    return both.gather(1, order.expand(len(tokens), -1)[..., None].expand(-1, -1, both.shape[-1]))


def end_of_text(token_ids: Tensor, eos_token_id: int | None = None) -> Tensor:
    """(K, L) -> (K,): position of the first end-of-text token of each row.

    Args:
        token_ids: of K texts.
        eos_token_id: of end-of-text; None means the largest id of each row (OpenAI).

    Raises:
        InputError: a row without ``eos_token_id``.
    """
    if eos_token_id is None:
        return token_ids.argmax(dim=-1)
    found = token_ids == eos_token_id
    if not exporting() and not bool(found.any(dim=-1).all()):
        row = int(found.any(dim=-1).logical_not().nonzero()[0])
        raise InputError(
            f'text {row} has no end-of-text token {eos_token_id}: use the tokenizer of the model'
        )
    return found.int().argmax(dim=-1)
