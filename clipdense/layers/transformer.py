"""Pre-norm transformer blocks and the loop that runs them.

B: sequences, N: tokens, T: tokens of all sequences without padding, C: width, R: selected tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import MLP, KeysValues, SelfAttention
from .packing import Packing
from .stochastic_depth import drop_branch


class Block(nn.Module):
    """x += attention(norm1(x)); x += mlp(norm2(x)).

    Args:
        width, num_heads, mlp_width, activation, eps: of its parts.
        drop_path: share of the sequences of which each branch is left out, in training.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        mlp_width: int,
        activation: str = 'quick_gelu',
        eps: float = 1e-5,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width, activation)
        self.drop_path = drop_path

    def forward(
        self,
        x: Tensor,
        causal: bool = False,
        packing: Packing | None = None,
        rows: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(B, N, C), or (T, C) with a packing -> the same shape, or (R, C) with ``rows``.

        Args:
            causal: a token attends to itself and earlier tokens.
            packing: the sequences in (T, C).
            rows: (R,) indices over all sequences of the tokens to return; the others are attended to only.
                With ``drop_path``, at most one of each sequence.
            mask: (B, N, N), True where a token (second axis) attends to another (third axis).

        Raises:
            ValueError: a packing with ``drop_path``, which drops branches of whole sequences.
        """
        if packing is not None and self.drop_path:
            raise ValueError('drop_path needs sequences (B, N, C), not packed ones')
        attended = self.attn.attend(self.norm1(x), causal, packing, mask)
        if rows is not None:
            x, attended = x.flatten(0, -2)[rows], attended.flatten(0, -2)[rows]  # (R, C)
        x = x + self._branch(self.attn.proj(attended))
        return x + self._branch(self.mlp(self.norm2(x)))

    def _branch(self, x: Tensor) -> Tensor:
        return drop_branch(x, self.drop_path) if self.training and self.drop_path else x

    def step(self, x: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """The next tokens of sequences, see ``SelfAttention.step``."""
        attended, now = self.attn.step(self.norm1(x), past)
        x = x + attended
        return x + self.mlp(self.norm2(x)), now


def run_blocks(
    blocks: Iterable[nn.Module],
    x: Tensor,
    *,
    causal: bool = False,
    packing: Packing | None = None,
    rows: Tensor | None = None,
    mask: Tensor | None = None,
    checkpointing: bool = False,
) -> Tensor:
    """Run the blocks, with the arguments of ``Block.forward``; ``rows`` apply to the last block.

    ``checkpointing`` recomputes activations in the backward pass.
    """
    blocks = list(blocks)
    for index, block in enumerate(blocks):
        wanted = rows if index == len(blocks) - 1 else None
        if checkpointing and torch.is_grad_enabled():
            x = checkpoint(block, x, causal, packing, wanted, mask, use_reentrant=False)
        else:
            x = block(x, causal, packing, wanted, mask)
    return x


def replace_tokens(x: Tensor, start: int, tokens: Tensor) -> Tensor:
    """(B, N, C) with the tokens from ``start`` on replaced by ``tokens`` (n, C) in each sequence."""
    stop = start + len(tokens)
    return torch.cat([x[:, :start], tokens.to(x.dtype).expand(x.shape[0], -1, -1), x[:, stop:]], dim=1)


def initialize_blocks(blocks: Sequence[Block], width: int) -> None:
    """OpenAI's initialization of text towers: residual branches scale with depth (openai/CLIP model.py)."""
    out_std = width**-0.5 * (2 * len(blocks)) ** -0.5
    for block in blocks:
        nn.init.normal_(block.attn.qkv.weight, std=width**-0.5)
        nn.init.normal_(block.attn.proj.weight, std=out_std)
        nn.init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.fc2.weight, std=out_std)
        nn.init.zeros_(block.attn.qkv.bias)
        nn.init.zeros_(block.attn.proj.bias)
