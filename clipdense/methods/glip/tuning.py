"""A detector of which a named part is trained: all of it, its last layers, or an offset of its prompt.

T: tokens of a text, D: text width.

Li et al., GLIP (arXiv 2112.03857), section 5.2.

Source: microsoft/GLIP tools/finetune.py ``tuning_highlevel_override``: full, linear_prob, language_prompt_v2.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from clipdense.registry import MODELS
from clipdense.utils.errors import InputError, nearest

from .class_text import ClassText, EncodedChunk, NamedPrompt
from .detector import GLIP
from .prompts import Prompt, PromptRules
from .structures import TextFeatures
from .text import EncodedPrompts, GroundingText
from .training_prompts import TrainingText

Tune = Literal['full', 'linear', 'prompt']
# Tune -> beginnings of the names of what is trained; '' is everything that ``frozen`` does not name.
TUNED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        'full': ('',),
        'linear': (
            'head.box.', 'head.centerness.', 'head.words.', 'head.log_scale', 'head.text_bias', 'head.bias'
        ),
        'prompt': ('prompt_offset.',),
    }
)  # fmt: skip
_TOKENS = 1000


class PromptOffset(nn.Module):
    """A learned offset for each token of one text, added to its features; other texts stay as they are.

    Args:
        tokens: of a text, at most.
        width: D.
    """

    text: Tensor

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(tokens, width))
        self.register_buffer('text', torch.zeros(32, dtype=torch.uint8))  # digest; zeros before training

    def learn(self, prompts: Sequence[Prompt]) -> None:
        """Note the text that is trained with.

        Raises:
            InputError: texts differ.
        """
        found = {_digest(one) for one in prompts}
        if self.text.any():
            found.add(bytes(self.text.tolist()))
        if len(found) > 1:
            raise InputError(
                "tune='prompt' learns an offset for each token of one text, but the texts of images differ: "
                'all names must fit into one text, in one order (prompts.shuffle=False, '
                'prompts.negatives=None), without captions'
            )
        self.text.copy_(torch.tensor(list(found.pop()), dtype=torch.uint8))

    def belongs(self, prompt: Prompt) -> bool:
        """Whether the offsets were learned for this text."""
        return _digest(prompt) == bytes(self.text.tolist())

    def forward(self, features: TextFeatures) -> TextFeatures:
        """Features (B, T, D) -> the same with the offsets of their tokens."""
        count = features.mask.shape[1]
        if count > len(self.offset):
            raise InputError(
                f'the text has {count} tokens, and there are offsets for {len(self.offset)}: set model.tokens'
            )
        offset = self.offset[:count] * features.mask[..., None]
        return TextFeatures(features.hidden + offset, features.embedded + offset, features.mask)


class _TunedText(ClassText):
    """Class names with the offsets, where these belong to their text."""

    def __init__(self, text: GroundingText, rules: PromptRules, offset: PromptOffset) -> None:
        super().__init__(text, rules)
        self.offset = offset

    @torch.no_grad()
    def encode(self, prompts: Sequence[NamedPrompt]) -> list[EncodedChunk]:
        """As ``ClassText``; other texts than that of the training are read without offsets.

        Warns:
            UserWarning: there are such texts.
        """
        found = super().encode(prompts)
        own = [self.offset.belongs(one.prompt) for one in prompts]
        if not all(own) and bool(self.offset.text.any()):
            other = prompts[own.index(False)].prompt.text
            warnings.warn(
                f'the tuned prompt belongs to other class names than {other!r:.60}, which are read without '
                'it, as before the tuning'
            )
        return [
            chunk._replace(features=self.offset(chunk.features)) if mine else chunk
            for chunk, mine in zip(found, own, strict=True)
        ]


@MODELS.register_module()
class TunedGLIP(GLIP):
    """A ``GLIP`` of which a named part is trained.

    Args:
        tune: 'full'; 'linear', the layers after the blocks of the head (logits, boxes, centerness; not the
            scales of the boxes); or 'prompt', an offset for each token of the text of the class names,
            which begins at 0.  All others keep their values and are in evaluation mode.
        tokens: of the text with 'prompt', at most.
        options: of ``GLIP``; ``start`` are the weights that are tuned, ``frozen`` is for 'full' only.

    Raises:
        InputError: an unknown ``tune``, ``frozen`` without 'full', or rules of prompts that change the text.
    """

    def __init__(self, tune: Tune = 'full', tokens: int = _TOKENS, **options: Any) -> None:
        super().__init__(**options)
        if tune not in TUNED:
            known = get_args(Tune)
            raise InputError(
                f'tune must be one of {", ".join(known)}, got {tune!r}.{nearest(str(tune), known)}'
            )
        if tune != 'full' and self.frozen:
            raise InputError(f'tune={tune!r} says what is trained: remove frozen={self.frozen}')
        self.tune = tune
        self.prompt_offset: PromptOffset | None = None
        if tune == 'prompt':
            if self.prompts.shuffle or self.prompts.negatives is not None:
                raise InputError(
                    "tune='prompt' learns an offset for each token of one text: set prompts.shuffle=False "
                    'and prompts.negatives=None'
                )
            self.prompts = replace(self.prompts, max_names=None)
            self.prompt_offset = PromptOffset(tokens, self.clip.width)
            self.class_text = _TunedText(self.clip, self.prompts, self.prompt_offset)
        for name, parameter in self.named_parameters():
            if not name.startswith(TUNED[tune]):
                parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> TunedGLIP:
        """Modules without a trained parameter stay in evaluation mode."""
        super().train(mode)
        if self.tune != 'full':
            for name, module in self.named_modules():
                tuned = any(
                    f'{name}.'.startswith(one) or one.startswith(f'{name}.') for one in TUNED[self.tune]
                )
                if name and not tuned:
                    module.eval()
        return self

    def read_training(self, texts: Sequence[TrainingText]) -> EncodedPrompts:
        """The texts of a training batch, encoded, with the offsets."""
        encoded = super().read_training(texts)
        if self.prompt_offset is None:
            return encoded
        self.prompt_offset.learn([one.prompt for one in texts])
        return encoded._replace(features=self.prompt_offset(encoded.features))

    def _own_state(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.state_dict().items() if name.startswith('prompt_offset.')}


def _digest(prompt: Prompt) -> bytes:
    return sha256(repr((prompt.text, prompt.phrases)).encode()).digest()
