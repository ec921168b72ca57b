"""Classifiers on a frozen CLIP: what they return, and that the CLIP stays as it is and is not stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.tasks.classification import FrozenClipClassifier
from clipdense.utils.errors import InputError
from clipdense.weights.io import read_weights

SIZE = ClipSize(
    VitSize(image_size=16, patch_size=8, width=16, layers=1, num_heads=1, mlp_width=16, embed_dim=8),
    TextSize(width=16, layers=1, num_heads=1, mlp_width=16, embed_dim=8),
)
IMAGES = torch.linspace(-1, 1, 4 * 3 * 16 * 16).view(4, 3, 16, 16)


class Probe(FrozenClipClassifier):
    """A linear layer on image embeddings."""

    def __init__(self) -> None:
        super().__init__(build_clip(SIZE))
        self.head = nn.Linear(8, 3)

    def logits(self, images):
        return self.head(self.clip.encode_image(images))


@pytest.fixture
def model():
    return Probe()


def test_modes(model):
    labels = torch.tensor([0, 1, 2, 0])
    logits = model(IMAGES, labels)
    assert logits.shape == (4, 3)
    assert_close(torch.stack(model(IMAGES, labels, 'predict')), logits)
    assert_close(model(IMAGES, labels, 'loss')['loss'], cross_entropy(logits, labels))


@pytest.mark.parametrize('labels', [[0, 1, 2, 0], [0, -1, 2, -1], [-1, -1, -1, -1]])
def test_images_that_could_not_be_read_do_not_count(model, labels):
    labels = torch.tensor(labels)
    logits, known = model(IMAGES), labels >= 0
    found = model(IMAGES, labels, 'loss')
    hits = (logits.argmax(1) == labels)[known].float()
    nothing = torch.tensor(0.0)
    assert_close(found['loss'], cross_entropy(logits[known], labels[known]) if known.any() else nothing)
    assert_close(found['accuracy'], hits.mean() if known.any() else nothing)


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (None, 'training needs labels: use a dataset with labels'),
        (torch.tensor([0, 3, 0, 0]), 'label 3 in the dataset, but only 3 class names'),
    ],
)
def test_refused(model, labels, message):
    with pytest.raises(InputError, match=message):
        model(IMAGES, labels, 'loss')


def test_the_clip_is_frozen_and_in_evaluation_mode(model):
    model.train()
    assert (model.training, model.clip.training) == (True, False)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained == {'head.weight', 'head.bias'}
    model(IMAGES, torch.tensor([0, 1, 2, 0]), 'loss')['loss'].backward()
    assert all(one.grad is None for one in model.clip.parameters())


def test_the_clip_is_not_stored(model, tmp_path):
    state = model.state_dict()
    assert set(state) == {'head.weight', 'head.bias'}
    assert not any(model.load_state_dict(state))
    with pytest.raises(RuntimeError, match=r'head\.bias'):
        model.load_state_dict({'head.weight': state['head.weight']})
    torch.save({'state_dict': state}, tmp_path / 'step_1.pth')
    assert set(model.own_tensors(read_weights(tmp_path / 'step_1.pth'))) == set(state)
