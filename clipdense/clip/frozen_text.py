"""The text tower of a CLIP as a frozen module.  K: texts, L: tokens, D: joint space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.registry import MODELS, build_module

from .model import CLIP, TextTower
from .tokenizers import OpenAITokenizer


@MODELS.register_module()
class FrozenText(nn.Module):
    """A text tower with its tokenizer, without gradients and always in evaluation mode.

    Args:
        text: a text tower or its config.
        tokenizer: texts -> (K, L) token ids; belongs to the weights.  OpenAI's by default.
    """

    unit_prompts = True
    tower = 'text'

    def __init__(self, text: TextTower | dict, tokenizer: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.text: TextTower = build_module(text).requires_grad_(False).eval()
        self.tokenizer = tokenizer or OpenAITokenizer(self.text.size.context_length)

    @classmethod
    def of(cls, clip: CLIP | FrozenText) -> FrozenText:
        """The text tower of a CLIP, which is left unchanged; a ``FrozenText`` is returned as it is."""
        return clip if isinstance(clip, FrozenText) else cls(clip.text, clip.tokenizer)

    @property
    def config(self) -> dict[str, Any]:
        """Config that builds this module with new weights."""
        return {'type': FrozenText, 'text': self.text.config}

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.text.size.embed_dim

    def train(self, mode: bool = True) -> FrozenText:
        """Stay in evaluation mode."""
        return super().train(False)

    def encode_text(self, token_ids: Tensor, normalize: bool = False) -> Tensor:
        """(K, L) -> (K, D)."""
        embeddings = self.text.project(self.text(token_ids))
        return F.normalize(embeddings, dim=-1) if normalize else embeddings
