"""Adapters on region embeddings, for labeled boxes of known and novel classes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from clipdense.inference.detector import Detector
from clipdense.methods.adapters.cache import KeyValueCache
from clipdense.methods.vild.predictor import ViLDPredictor
from clipdense.tasks.adapters import Origin, source_digest
from clipdense.utils.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
NAMES = ['cat', 'dog', 'cow']


@pytest.fixture
def predictor(tiny):
    return ViLDPredictor(tiny.build('text'))


def detector(predictor, tiny, adapter=None):
    _, embeddings = tiny.words()
    return Detector(predictor, SimpleNamespace(embed=lambda vocabulary: embeddings), adapter=adapter)


def test_region_embeddings_are_those_of_the_head(predictor):
    boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [8.0, 8.0, 40.0, 40.0]])
    found = predictor.embed_regions(IMAGE, boxes)
    assert found.shape == (2, 8)
    assert_close(found.norm(dim=1), torch.ones(2))
    assert_close(predictor.embed_regions(IMAGE, boxes[1:]), found[1:], atol=1e-5, rtol=1e-4)


def test_keys_of_a_novel_class_find_it(predictor, tiny):
    torch.manual_seed(1)
    plain = detector(predictor, tiny)(IMAGE, NAMES, score_threshold=0.0)
    keys = predictor.embed_regions(IMAGE, torch.tensor([[8.0, 8.0, 40.0, 40.0]]))
    origin = Origin(source_digest(predictor), 'regions', 'vild')
    cache = KeyValueCache(keys, [0], ['cow'], alpha=500.0, beta=0.1, origin=origin)
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match='no keys of cat, dog'):
        found = detector(predictor, tiny, cache)(IMAGE, NAMES, score_threshold=0.0)
    assert found.class_ids[0] == 2
    assert found.confidence[0] > 0.9
    torch.manual_seed(1)
    again = detector(predictor, tiny)(IMAGE, NAMES, score_threshold=0.0)
    np.testing.assert_array_equal(plain.confidence, again.confidence)


def test_the_adapter_of_another_detector(predictor, tiny):
    origin = Origin('0' * 64, 'regions', 'vild')
    with pytest.raises(InputError, match='belongs to other weights'):
        detector(predictor, tiny, KeyValueCache(torch.eye(1, 8), [0], ['cow'], origin=origin))
