"""The tiny CLIP of the official outputs, with its vocabulary of 512 tokens, and small ones of other kinds."""

from __future__ import annotations

import pytest
import torch

from clipdense.clip.checkpoint import load
from clipdense.clip.model import build_clip
from clipdense.clip.preprocess import Preprocess
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.vocab.tokenizer import BaseTokenizer, Tokenizer

PLAIN = Preprocess.named('openai', 32)
TEXT = TextSize(64, 3, 2, 128, 32)
VIT = VitSize(32, 8, 64, 3, 2, 128, 32)


class TinyTokenizer(BaseTokenizer):
    """OpenAI's ids, renumbered as the official outputs have them."""

    end, pad, prefix, suffix, vocab_size = 511, 0, (510,), (511,), 512
    identity = 'tiny'

    def __init__(self, ids: dict[str, int]) -> None:
        super().__init__(77)
        self.ids = {int(real): small for real, small in ids.items()}
        self.real = {small: real for real, small in self.ids.items()}
        self.openai = Tokenizer()

    def encode(self, text: str) -> list[int]:
        return [self.ids[index] for index in self.openai.encode(text)]

    def decode(self, ids) -> str:
        return self.openai.decode(self.real[index] for index in ids)


@pytest.fixture
def official(golden, golden_path):
    """``official('maple') -> (clip, tensors, meta)``."""

    def read(name):
        tensors, meta = golden(f'{name}_tiny')
        clip = load(
            golden_path('prompt_clip_tiny.safetensors'),
            activation='quick_gelu',
            num_heads=1,
            text_num_heads=1,
            preprocess=PLAIN,
        )
        clip.tokenizer = TinyTokenizer(meta['token_id_map'])
        return clip.requires_grad_(False), tensors, meta

    return read


@pytest.fixture
def clip():
    """A small CLIP with random weights and OpenAI's tokenizer."""
    return build_clip(ClipSize(VIT, TEXT)).requires_grad_(False).eval()


@pytest.fixture
def resnet_clip():
    """The same with a ResNet."""
    size = ClipSize(ResNetSize(32, 8, (1, 1, 1, 1), 4, 32), TEXT)
    return build_clip(size).requires_grad_(False).eval()


def learned(learner, seed=0):
    """Random numbers in place of the initial ones, so that everything matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return learner
