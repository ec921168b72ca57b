"""Scores of pairs by a CLIP: each caption of an image, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.clip.model import CLIP, build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.methods.contrastive.scoring import ClipScorer, clip_scorer
from clipdense.utils.errors import InputError

IMAGE = VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
CAPTIONS = [['a cat'], ['a dog', 'a red car', 'a tree'], ['', 'a tree']]


@pytest.fixture
def clip() -> CLIP:
    torch.manual_seed(0)
    return build_clip(ClipSize(IMAGE, TEXT))


@pytest.fixture
def images() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(3)]


def cosine(clip: CLIP, image: Image.Image, caption: str) -> float:
    with torch.no_grad():
        seen = clip.encode_image(clip.preprocess(image)[None])
        read = clip.encode_text(torch.as_tensor(clip.tokenizer([caption])))
    return float(torch.cosine_similarity(seen, read))


def flat(scores) -> list[float]:
    return [score.score for some in scores for score in some]


def test_each_caption_of_an_image_is_scored(clip, images):
    expected = [
        cosine(clip, image, caption) for image, some in zip(images, CAPTIONS, strict=True) for caption in some
    ]
    found = ClipScorer(clip.eval())(images, CAPTIONS)
    assert [len(some) for some in found] == [1, 3, 2]
    assert flat(found) == pytest.approx(expected, abs=1e-6)


def test_other_pairs_of_a_batch_have_no_effect(clip, images):
    score = ClipScorer(clip)
    alone = [score([image], [some])[0] for image, some in zip(images, CAPTIONS, strict=True)]
    assert flat(score(images, CAPTIONS)) == pytest.approx(flat(alone))


def test_dropout_is_off_and_weights_are_named(clip, images):
    scorer, same = ClipScorer(clip.train()), clip_scorer(clip)
    assert not clip.training
    assert scorer.digest == same.digest
    with torch.no_grad():
        clip.logit_scale.add_(1)
    assert ClipScorer(clip).digest != scorer.digest


def test_other_models_are_refused():
    with pytest.raises(InputError, match='--by clip needs the weights of a CLIP, got Linear'):
        clip_scorer(torch.nn.Linear(2, 2))
