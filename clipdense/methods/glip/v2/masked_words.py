"""Masked language modeling on the fused text: hidden words are predicted from text and image (GLIPv2).

B: texts, T: tokens, W: words of the tokenizer.

Devlin et al., BERT (arXiv 1810.04805), section 3.1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipdense.utils.errors import InputError

from .word_head import NOT_ASKED, WordHead

_MASKED, _RANDOM = 0.8, 0.1  # of the chosen tokens; the others stay


class MaskedWords(WordHead):
    """Hidden words from the fused features of their tokens; see ``TokenMasker`` for what is hidden.

    Args:
        width, vocab_size: see ``WordHead``.
        share: chosen tokens, of those that belong to a phrase with a box.

    Raises:
        InputError: a share that is not between 0 and 1.
    """

    def __init__(self, width: int, vocab_size: int, share: float = 0.15) -> None:
        super().__init__(width, vocab_size)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise InputError(f'share of masked words must be above 0 and at most 1, got {share!r}')
        self.share = share


class TokenMasker:
    """Hides tokens of the texts of a batch, and keeps what they were.

    Of the chosen tokens 80 % become the mask, 10 % another word, and 10 % stay.

    Args:
        phrases: of each text, the numbers of the phrases with a box.
        share: chosen tokens, of those of these phrases.
        mask: id of the mask.
        vocab_size: W.
    """

    def __init__(self, phrases: Sequence[Sequence[int]], share: float, mask: int, vocab_size: int) -> None:
        self.phrases, self.share, self.mask, self.vocab_size = phrases, share, mask, vocab_size
        self.chosen: list[dict[int, int]] = [{} for _ in phrases]  # place -> word

    def __call__(self, number: int, ids: Sequence[int], tokens: Sequence[Sequence[int]]) -> list[int]:
        """The ids of a text after hiding.

        Args:
            number: of the text.
            ids: of its tokens.
            tokens: of each phrase.
        """
        changed = list(ids)
        allowed = sorted({place for phrase in self.phrases[number] for place in tokens[phrase]})
        self.chosen[number] = {}
        for place in allowed:
            if random.random() >= self.share:
                continue
            self.chosen[number][place] = ids[place]
            how = random.random()
            if how < _MASKED:
                changed[place] = self.mask
            elif how < _MASKED + _RANDOM:
                changed[place] = random.randrange(self.vocab_size)
        return changed

    def targets(self, length: int, device: Any = None) -> Tensor:
        """(B, T), see ``WordHead.forward``."""
        found = torch.full((len(self.chosen), length), NOT_ASKED, device=device)
        for row, words in enumerate(self.chosen):
            for place, word in words.items():
                found[row, place] = word
        return found
