"""Scores of pairs for filters: those of the model, whatever else is in the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from clipdense.methods.blip.scoring import itc_scorer, itm_scorer
from clipdense.methods.blip.tokenizer import BlipTokenizer
from clipdense.utils.errors import InputError

from .conftest import lively_blip, vocabulary_file

CAPTIONS = [['A cat.'], ['a dog', 'the cat on a picture', 'cats'], ['dogs', 'a picture']]


@pytest.fixture
def blip(tmp_path):
    model = lively_blip(decoder=False)
    model.tokenizer = BlipTokenizer(model.text_size, vocabulary_file(tmp_path))
    return model


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(3)]


@torch.no_grad()
def test_matching_with_both_logits(blip, images):
    found = itm_scorer(blip)(images, CAPTIONS)
    assert [len(some) for some in found] == [1, 3, 2]
    for image, texts, some in zip(images, CAPTIONS, found, strict=True):
        context = blip.encoder.read(blip.encode_image(blip.preprocess(image)[None]))
        for text, score in zip(texts, some, strict=True):
            logits = blip.match(context, *blip.tokenizer(text.lower().replace('.', ''), 'enc'))[0]
            assert score.logits == pytest.approx(logits.tolist(), abs=1e-4)
            assert score.score == pytest.approx(float(logits.softmax(0)[1]), abs=1e-5)
            assert (score.score >= itm_scorer(blip).min_score) == bool(logits[1] > logits[0])


@torch.no_grad()
def test_similarity(blip, images):
    found = itc_scorer(blip)(images, CAPTIONS)
    image = blip.embed_image(blip.encode_image(blip.preprocess(images[1])[None]))
    text = blip.embed_text(*blip.tokenizer('a dog', 'cls'))
    assert found[1][0].score == pytest.approx(float((image * text).sum()), abs=1e-5)
    assert found[1][0].logits is None
    assert itc_scorer(blip).min_score is None


def test_weights_and_scores_are_named(blip):
    digests = {itm_scorer(blip).digest, itc_scorer(blip).digest}
    with torch.no_grad():
        blip.itm_head.bias.add_(1)
    assert len(digests | {itm_scorer(blip).digest}) == 3


@pytest.mark.parametrize(
    ('build', 'options', 'message'),
    [
        (itm_scorer, None, '--by itm needs the weights of a BLIP, got Linear'),
        (itc_scorer, None, '--by itc needs the weights of a BLIP, got Linear'),
        (itm_scorer, {'encoder': False, 'embed_dim': 0}, 'no matching head: use weights for retrieval'),
        (itc_scorer, {'encoder': False, 'embed_dim': 0}, 'no joint space: use weights for retrieval'),
    ],
)
def test_models_that_are_refused(build, options, message):
    model = torch.nn.Linear(2, 2) if options is None else lively_blip(**options)
    with pytest.raises(InputError, match=message):
        build(model)
