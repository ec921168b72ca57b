"""The text transformer.  K: texts, L: tokens, C: width, D: joint space, n: context tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipdense.layers.transformer import Block, initialise_blocks, replace_tokens, run_blocks
from clipdense.registry import MODELS

from .sizes import TextSize


@dataclass(frozen=True)
class TextFlavour:
    """What differs between published text transformers beyond their size."""

    causal: bool  # and pooled at the end-of-text token; otherwise at the last place
    proj_bias: bool
    eps: float


FLAVOURS = {
    'openai': TextFlavour(causal=True, proj_bias=False, eps=1e-5),
    'siglip': TextFlavour(causal=False, proj_bias=True, eps=1e-6),
}


@MODELS.register_module()
class TextTransformer(nn.Module):
    """CLIP's text tower.

    A causal tower is trimmed to the last end-of-text token of the batch: what stands behind it cannot reach
    it, so the result is the same and most of the work is saved.

    Args:
        size: widths and depths; a dict of ``TextSize``'s fields will do.

    Source: openai/CLIP clip/model.py ``CLIP.encode_text``.
    """

    def __init__(self, size: TextSize | dict) -> None:
        super().__init__()
        self.size = size = TextSize(**size) if isinstance(size, dict) else size
        self.flavour = flavour = FLAVOURS[size.flavour]
        self.gradient_checkpointing = False
        width = size.width
        self.token_embed = nn.Embedding(size.vocab_size, width)
        self.pos_embed = nn.Parameter(torch.empty(size.context_length, width))
        self.blocks = nn.ModuleList(
            Block(width, size.heads, size.mlp_width, size.activation, flavour.eps) for _ in range(size.layers)
        )
        self.norm_post = nn.LayerNorm(width, eps=flavour.eps)
        self.proj = nn.Parameter(torch.empty(width, size.embed_dim))
        self.proj_bias = nn.Parameter(torch.empty(size.embed_dim)) if flavour.proj_bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """OpenAI's initialisation (openai/CLIP ``initialize_parameters``)."""
        nn.init.normal_(self.token_embed.weight, std=0.02)
        nn.init.normal_(self.pos_embed, std=0.01)
        initialise_blocks(list(self.blocks), self.size.width)
        nn.init.normal_(self.proj, std=self.size.width**-0.5)
        if self.proj_bias is not None:
            nn.init.zeros_(self.proj_bias)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(K, L) -> features (K, C), before projection.

        Raises:
            ValueError: more tokens than the tower has places.
        """
        if not self.flavour.causal:
            x = self._run(self._place(self.token_embed(token_ids)))  # (K, L, C)
            return self.norm_post(x[:, -1])
        eot = end_of_text(token_ids)  # (K,)
        length = int(eot.max()) + 1 if len(eot) else 1
        return self.forward_embeddings(self.token_embed(token_ids[:, :length]), eot)

    def forward_embeddings(
        self, embeddings: Tensor, eot: Tensor, deep: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Learned prompts: token embeddings (K, L, C) without positions -> features (K, C).

        Args:
            embeddings: (K, L, C); the first token is start-of-text.
            eot: (K,) place of the end-of-text token, from the token ids.
            deep: entry i, (n, C), replaces the n tokens behind start-of-text before block i + 1 (MaPLe).
        """
        if self.flavour.causal and len(eot):
            embeddings = embeddings[:, : int(eot.max()) + 1]
        x = self._run(self._place(embeddings), deep)
        rows = torch.arange(len(x), device=x.device)
        return self.norm_post(x[rows, eot])  # (K, C)

    def project(self, features: Tensor) -> Tensor:
        """(K, C) -> (K, D)."""
        projected = features @ self.proj
        return projected if self.proj_bias is None else projected + self.proj_bias

    def _place(self, embeddings: Tensor) -> Tensor:
        length = embeddings.shape[1]
        if length > len(self.pos_embed):
            raise ValueError(f'{length} tokens, but the text tower has {len(self.pos_embed)} places')
        return embeddings + self.pos_embed[:length].to(embeddings.dtype)

    def _run(self, x: Tensor, deep: Sequence[Tensor] | None = None) -> Tensor:
        causal, checkpointing = self.flavour.causal, self.gradient_checkpointing
        if not deep:
            return run_blocks(self.blocks, x, causal=causal, checkpointing=checkpointing)
        for index, block in enumerate(self.blocks):
            if 1 <= index <= len(deep):
                x = replace_tokens(x, 1, deep[index - 1])
            x = run_blocks([block], x, causal=causal, checkpointing=checkpointing)
        return x


def end_of_text(token_ids: Tensor) -> Tensor:
    """(K, L) -> (K,): place of the first occurrence of each row's largest id, which is end-of-text."""
    return token_ids.argmax(dim=-1)
