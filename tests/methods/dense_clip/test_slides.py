"""The windows that a training-free method uses if none are given."""

from __future__ import annotations

import pytest

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, TimmSize, VitSize
from clipdense.methods.dense_clip.segmenter import default_slide
from clipdense.tasks.windows import Slide

TEXT = TextSize(16, 1, 2, 32, 16, vocab_size=100, context_length=10)
WINDOWS = Slide(short_side=96, window=64, stride=32)


@pytest.mark.parametrize(
    ('image', 'slide'),
    [
        (VitSize(64, 16, 16, 1, 2, 32, 16), WINDOWS),
        (ResNetSize(64, 8, (1, 1, 1, 1), 2, 16), WINDOWS),
        (TimmSize('test_vit', 64, 16), WINDOWS),
        (TimmSize('test_convnext', 64, 16), Slide(short_side=128)),  # no positions: the whole image
        (TimmSize('test_efficientnet', 64, 16), Slide(short_side=128)),
    ],
    ids=lambda value: getattr(value, 'model', type(value).__name__),
)
def test_default_slide(image, slide):
    assert default_slide(build_clip(ClipSize(image, TEXT))) == slide
