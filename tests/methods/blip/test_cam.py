"""Grad-CAM of matching, and the segmenter made of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from clipdense import Segmenter
from clipdense.benchmarks.build import make_subject, runnable
from clipdense.inference.load import load_segmenter
from clipdense.methods.blip.cam import itm_cam
from clipdense.methods.blip.checkpoint import save
from clipdense.methods.blip.segmenter import ItmCam
from clipdense.methods.blip.tokenizer import BlipTokenizer
from clipdense.utils.errors import InputError

from .conftest import lively_blip, vocabulary_file

IDS = torch.tensor([[59, 7, 8, 3], [59, 9, 3, 0], [59, 3, 0, 0]])
KEEP = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])


@pytest.fixture
def matching(tmp_path):
    """A matching model with a vocabulary, whose maps depend on the image."""
    model = lively_blip(0.15, decoder=False)
    model.tokenizer = BlipTokenizer(model.text_size, vocabulary_file(tmp_path))
    return model


def written_out(model, tokens, ids, place):
    """One image and one text, every step as in the paper; the attention is a leaf in each layer."""
    x, encoder = model.encoder.embed(ids[None]), model.encoder
    leaf = None
    for index, layer in enumerate(encoder.layers):
        x = layer.self_attn(x, None)[0]
        key, value = layer.cross.read(tokens[None])
        heads = key.shape[1]
        query = layer.cross.q(x).unflatten(-1, (heads, -1)).transpose(1, 2)
        attention = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        if index == place:
            leaf = attention = attention.detach().requires_grad_()
        mixed = (attention @ value).transpose(1, 2).flatten(2)
        x = layer.feed(layer.cross.norm(x + layer.cross.proj(mixed)))
    score = model.itm_head(x[:, 0])[0]
    score[1].backward()
    cam = (leaf.detach() * leaf.grad.clamp(min=0))[0].mean(0)  # (L, S)
    return cam[1:-1, 1:].mean(0), score.softmax(0)[1]


@pytest.mark.parametrize('layer', [1, 8])
def test_written_out(matching, layer):
    tokens = matching.encode_image(torch.randn(2, 3, 32, 32)).detach()
    maps, matches = itm_cam(matching, tokens, IDS, KEEP, layer)
    assert maps.shape == (2, 3, 16)
    assert (maps[:, :2] > 0).any(dim=-1).all()
    for image in range(2):
        for text in range(2):
            ids = IDS[text][: KEEP[text].sum()]
            expected, match = written_out(matching, tokens[image], ids, 0)
            assert_close(maps[image, text], expected)
            assert_close(matches[image, text], match)
    assert maps[:, 2].eq(0).all()  # an empty text has no words
    assert all(one.grad is None for name, one in matching.named_parameters() if 'image' in name)


def test_one_by_one_as_together(matching):
    tokens = matching.encode_image(torch.randn(1, 3, 32, 32)).detach()
    ids = torch.tensor([[59, index, 3] for index in range(5, 40)])  # more than are computed together
    maps, matches = itm_cam(matching, tokens, ids, torch.ones_like(ids))
    for index in (0, 20, 34):
        one, match = itm_cam(matching, tokens, ids[index, None], torch.ones(1, 3, dtype=torch.int64))
        assert_close(one[:, 0], maps[:, index])
        assert_close(match[:, 0], matches[:, index])


def test_the_last_layer_has_no_map(matching):
    tokens = matching.encode_image(torch.randn(1, 3, 32, 32)).detach()
    with pytest.raises(InputError, match='layer must be at least 1 and below 2, the last layer'):
        itm_cam(matching, tokens, IDS, KEEP, 2)


def image(side=(40, 56)):
    return np.random.default_rng(0).integers(0, 256, (*side, 3), np.uint8)


def test_segment(matching, tmp_path):
    save(matching, tmp_path / 'itm.safetensors')
    segmenter = Segmenter.from_pretrained(tmp_path / 'itm.safetensors', device='cpu')
    assert isinstance(segmenter.model, ItmCam)
    result = segmenter(image(), ['cat', 'dog', 'word5'], keep_probabilities=True)
    assert result.mask.shape == (40, 56)
    assert set(np.unique(result.mask)) <= {0, 1, 2}
    assert len(np.unique(result.mask)) > 1
    assert np.isfinite(result.probabilities).all()
    again = segmenter(segmenter.encode(image()), ['word5', 'dog', 'cat'])
    assert (again.mask == 2 - result.mask).all()  # classes do not depend on one another


def test_classes_by_their_token_ids(matching):
    """Synonyms of different length, and the scores written out."""
    model = load_segmenter(matching)
    features = model.encode_pixels(torch.randn(1, 3, 32, 32))
    ids, keep = matching.tokenizer(['a picture of a cat', 'a picture of a dogs'], 'enc')
    scores = model.classify_pixels(features, ids.float().masked_fill(keep == 0, -1))
    tokens = torch.cat([features[0][:, None], features[1].flatten(1, 2)], 1)
    maps, matches = itm_cam(matching, tokens, ids, keep)
    expected = matches[..., None] * maps / maps.amax(-1, keepdim=True)
    assert_close(scores.flatten(2), expected)
    assert scores.max() <= 1


def test_options(matching):
    first = load_segmenter(matching, 'itm_cam', method_options={'layer': 1, 'prompt': '{} on the picture'})
    assert (first.layer, first.embedder.prompt) == (1, '{} on the picture')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'layer': 0}, 'layer must be a whole number of at least 1, got 0'),
        ({'layer': 1.5}, 'layer must be a whole number'),
        ({'layer': 'last'}, 'layer of itm_cam must be a number'),
        ({'prompt': 'a cat'}, "prompt must have '{}' once"),
        ({'block': 3}, "method 'itm_cam' has no option 'block'"),
    ],
)
def test_wrong_options(matching, options, message):
    with pytest.raises(InputError, match=message):
        load_segmenter(matching, method_options=options)


def test_weights_and_methods_that_do_not_fit(matching, tiny):
    with pytest.raises(InputError, match="method 'maskclip' does not work on Blip; methods that do: itm_cam"):
        load_segmenter(matching, 'maskclip')
    with pytest.raises(InputError, match='no matching head: use weights for retrieval'):
        load_segmenter(tiny(encoder=False, embed_dim=0))
    with pytest.raises(InputError, match='has no embedding of each pixel'):
        Segmenter.from_pretrained(matching, device='cpu').extract_dense_features(image())
    with pytest.raises(InputError, match='templates have no effect'):
        Segmenter.from_pretrained(matching, device='cpu', templates='imagenet')


def test_in_the_benchmarks(matching):
    subject = make_subject(matching, 'itm')
    assert runnable(subject) == (['itm_cam'], {})
