"""The text half of a CLIP.  K: texts, L: tokens, D: joint space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.clip.model import CLIP
from clipdense.clip.text import TextTransformer


class FrozenText(nn.Module):
    """Embeds words and is never trained.

    Args:
        text: a text tower.
        tokenizer: texts -> (K, L) token ids; belongs to the weights.
    """

    unit_prompts = True

    def __init__(self, text: TextTransformer, tokenizer: Callable[..., Any]) -> None:
        super().__init__()
        self.text = text.requires_grad_(False).eval()
        self.tokenizer = tokenizer

    @classmethod
    def of(cls, clip: CLIP) -> FrozenText:
        """The text half of a CLIP, whose image tower stays as it is."""
        return cls(clip.text, clip.tokenizer)

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.text.size.embed_dim

    def train(self, mode: bool = True) -> FrozenText:
        """It stays in evaluation mode."""
        return super().train(False)

    def encode_text(self, token_ids: Tensor, normalize: bool = False) -> Tensor:
        """(K, L) -> (K, D)."""
        embeddings = self.text.project(self.text(token_ids))
        return F.normalize(embeddings, dim=-1) if normalize else embeddings
