"""The text layer of a block of the head.  B: texts, T: tokens, D: width."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.attention import KeysValues, causal_mask, with_past
from clipdense.layers.transformer import Block

from .fusion import LIMIT
from .sizes import HeadSize


class BertLayer(nn.Module):
    """A layer of BERT whose values are kept between -50,000 and 50,000, for half precision.

    Args:
        width: D.
        num_heads: attention heads.
        mlp_width: of the hidden layer.
        dropout: of attention probabilities and of what is added.

    Source: microsoft/GLIP modeling/rpn/modeling_bert.py ``BertEncoderLayer``.
    """

    def __init__(self, width: int, num_heads: int, mlp_width: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.fc1, self.fc2 = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), (B, T) False for padding -> (B, T, D)."""
        return self._layer(text, *self._split(text), mask[:, None, None])

    def step(self, text: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """The next tokens of texts (B, T, D), which read those before them -> (B, T, D), and a cache."""
        query, key, value = self._split(text)
        key, value = with_past(key, value, past)
        count = text.shape[1]
        allowed = causal_mask(count, key.shape[2] - count, text.device)
        return self._layer(text, query, key, value, allowed), (key, value)

    def _layer(self, text: Tensor, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        scores = _kept(query @ key.mT / query.shape[-1] ** 0.5)  # (B, heads, T, T)
        shares = scores.masked_fill(~allowed, -LIMIT * LIMIT).softmax(dim=-1)
        mixed = (self._drop(shares) @ value).transpose(1, 2).flatten(2)  # (B, T, D)
        text = self.norm1(self._drop(self.proj(mixed)) + text)
        hidden = _kept(F.gelu(_kept(self.fc1(text))))
        return _kept(self.norm2(self._drop(_kept(self.fc2(hidden))) + text))

    def _split(self, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._heads(self.query(text)), self._heads(self.key(text)), self._heads(self.value(text))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class ClipLayer(nn.Module):
    """A block of CLIP's text tower without causal attention.

    Args:
        width: D.
        num_heads: attention heads.
        mlp_width: of the hidden layer.

    Source: microsoft/GLIP modeling/rpn/modeling_clip.py ``CLIPTransformer`` layers of the head.
    """

    def __init__(self, width: int, num_heads: int, mlp_width: int) -> None:
        super().__init__()
        self.block = Block(width, num_heads, mlp_width, 'quick_gelu', eps=1e-12)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D), (B, T) False for padding -> (B, T, D)."""
        return self.block(text, mask=mask[:, None].expand(-1, mask.shape[1], -1))

    def step(self, text: Tensor, past: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """See ``BertLayer.step``."""
        return self.block.step(text, past)


def text_layer(size: HeadSize) -> BertLayer | ClipLayer:
    """The text layer of a block."""
    if size.language == 'clip':
        return ClipLayer(size.text_width, size.text_heads, size.text_mlp)
    return BertLayer(size.text_width, size.text_heads, size.text_mlp, size.dropout)


def _kept(x: Tensor) -> Tensor:
    return x.clamp(-LIMIT, LIMIT)
