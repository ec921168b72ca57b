"""Sequences of different lengths without padding.

B: sequences, N: tokens of the longest, T: tokens of all, C: width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """Indices for a batch of sequences concatenated without padding, (T, C).

    Linear layers and norms work on the T tokens; only attention needs the sequences.

    Args:
        places: (T,) index of each token among the B * N of the padded batch.
        last: (B,) index among the T tokens of the last token of each sequence.
        shape: (B, N).
    """

    places: Tensor
    last: Tensor
    shape: tuple[int, int]

    @classmethod
    def of_lengths(cls, lengths: Tensor, longest: int) -> Packing:
        """(B,) lengths, at least 1 and at most ``longest``."""
        inside = torch.arange(longest, device=lengths.device) < lengths[:, None]  # (B, N)
        return cls(inside.flatten().nonzero()[:, 0], lengths.cumsum(0) - 1, (len(lengths), longest))

    def pack(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (T, C)."""
        return x.flatten(0, 1).index_select(0, self.places)

    def unpack(self, x: Tensor) -> Tensor:
        """(T, C) -> (B, N, C), zeros after the end of each sequence."""
        batch, longest = self.shape
        padded = x.new_zeros(batch * longest, x.shape[-1]).index_copy_(0, self.places, x)
        return padded.unflatten(0, self.shape)
