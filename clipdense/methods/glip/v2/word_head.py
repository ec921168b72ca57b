"""Words from fused text: hidden ones, or those that come next.

B: texts, T: tokens, D: text width, W: words of the tokenizer.

Source: microsoft/GLIP modeling/rpn/vldyhead.py ``BertLMPredictionHead``.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from clipdense.layers.precision import at_least_fp32

NOT_ASKED = -100  # target of a token that is not predicted


class WordHead(nn.Module):
    """Fused features of the tokens -> logits of the words.

    Args:
        width: D.
        vocab_size: W.
    """

    def __init__(self, width: int, vocab_size: int) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)
        self.out = nn.Linear(width, vocab_size)

    def logits(self, text: Tensor) -> Tensor:
        """(..., D) -> (..., W)."""
        return at_least_fp32(self.out(self.norm(F.gelu(self.fc(text)))))

    def forward(self, text: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of the tokens that are predicted; 0 if there are none.

        Args:
            text: (B, T, D) fused features.
            targets: (B, T) the words, ``NOT_ASKED`` for tokens that are not predicted.
        """
        chosen = targets != NOT_ASKED
        loss = F.cross_entropy(self.logits(text[chosen]), targets[chosen], reduction='sum')
        return loss / chosen.sum().clamp(min=1)
