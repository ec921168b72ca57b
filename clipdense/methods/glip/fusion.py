"""Image and text attend to each other before each block of the head.

B: images, S: places of all levels, C: channels, T: tokens, D: text width, R: texts, d: head width.

Source: microsoft/GLIP utils/fuse_helper.py ``BiAttentionBlock``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LIMIT = 50_000.0  # of attention scores and logits
Places = tuple[Tensor, Tensor]  # (B, heads, S, d) each, what tokens are compared with and what they get


class Fusion(nn.Module):
    """Cross-modality multi-head attention; one product of queries and keys serves both directions.

    Both streams leave normalized: what is added to the attended features is the normalized input.

    Args:
        channels, text_width: C and D.
        width: of the attention.
        num_heads: of the attention.
        layer_scale: first value of the factors on what is added; 1 / number of blocks.
        dropout: of the attention probabilities.

    Source: paper, equations 4 to 6.
    """

    def __init__(
        self,
        channels: int,
        text_width: int,
        width: int,
        num_heads: int,
        layer_scale: float,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.norm_image, self.norm_text = nn.LayerNorm(channels), nn.LayerNorm(text_width)
        self.query, self.key = nn.Linear(channels, width), nn.Linear(text_width, width)
        self.image_value, self.text_value = nn.Linear(channels, width), nn.Linear(text_width, width)
        self.image_proj, self.text_proj = nn.Linear(width, channels), nn.Linear(width, text_width)
        self.image_scale = nn.Parameter(torch.full((channels,), layer_scale))
        self.text_scale = nn.Parameter(torch.full((text_width,), layer_scale))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, image: Tensor, text: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, S, C), (B, T, D) -> the same shapes.

        Args:
            image, text: features.
            mask: (B, T) bool, False for padding, which the image does not attend to.
        """
        image, text = self.norm_image(image), self.norm_text(text)
        to_image, to_text = self.attend(image, text, mask)  # (B, S, C), (B, T, D)
        return image + self.image_scale * to_image, text + self.text_scale * to_text

    def attend(self, image: Tensor, text: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What each side gets from the other: (B, S, C), (B, T, D) -> the same shapes."""
        query, key = self._heads(self.query(image)), self._heads(self.key(text))  # (B, heads, S | T, d)
        scores = self._scores(query, key)  # (B, heads, S, T)
        to_text = self._to_text(scores, self._heads(self.image_value(image)))  # (B, heads, T, d)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        to_image = self._drop(scores.softmax(dim=3)) @ self._heads(self.text_value(text))  # (B, heads, S, d)
        return self.image_proj(_joined(to_image)), self.text_proj(_joined(to_text))

    def places(self, image: Tensor) -> tuple[Tensor, Places]:
        """An image that reads no text: (B, S, C) -> the same shape, normalized, and what texts read of it."""
        image = self.norm_image(image)
        return image, (self._heads(self.query(image)), self._heads(self.image_value(image)))

    def read(self, text: Tensor, places: Places) -> Tensor:
        """Texts that read images: no token reads another, and the images read no token.

        Args:
            text: (R, T, D); the texts of an image are consecutive.
            places: of B images, see ``places``.

        Returns:
            (R, T, D).
        """
        query, value = places  # (B, heads, S, d)
        text = self.norm_text(text)
        key = self.key(text).view(len(query), -1, self.num_heads, query.shape[-1]).transpose(1, 2)
        to_text = self._to_text(self._scores(query, key), value)  # (B, heads, R / B * T, d)
        joined = self.text_proj(_joined(to_text)).view_as(text)
        return text + self.text_scale * joined

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        return (query * query.shape[-1] ** -0.5 @ key.mT).clamp(-LIMIT, LIMIT)

    def _to_text(self, scores: Tensor, value: Tensor) -> Tensor:
        of_places = (scores - scores.amax(dim=2, keepdim=True)).clamp(-LIMIT, LIMIT).softmax(dim=2)
        return self._drop(of_places).mT @ value

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)
