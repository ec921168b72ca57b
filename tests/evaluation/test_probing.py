"""Linear probe and nearest neighbors on features that are known."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torch.utils.data import Dataset

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.evaluation.probing import LinearClassifier, LinearProbe, NearestNeighbors
from clipdense.utils.errors import InputError

SIZE = ClipSize(VitSize(16, 8, 32, 1, 2, 64, 16), TextSize(32, 1, 2, 64, 16, vocab_size=50, context_length=8))


class Colors(Dataset):
    """Images of one of three colors with noise; a label of -1 is an image that could not be read."""

    def __init__(self, count=30, names=('red', 'green', 'blue'), seed=0, wrong=(), single=False):
        self.class_names, self.transform = names, None
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(count) % (1 if single else len(names))
        self.images = torch.randint(0, 60, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
        for index, label in enumerate(self.labels.tolist()):
            self.images[index, label] += 180
        self.labels[list(wrong)] = -1

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {'images': self.images[index], 'labels': int(self.labels[index])}


@pytest.fixture
def clip():
    return build_clip(SIZE).train()


@pytest.mark.parametrize('kind', [LinearProbe, NearestNeighbors])
@pytest.mark.parametrize('features', ['pooled', 'embeddings'])
def test_colors_are_told_apart(clip, kind, features):
    found = kind(Colors(wrong=[4]), Colors(21, seed=1, wrong=[0, 1]), features, batch_size=8, name='probe')(
        clip
    )
    assert found['probe/top1'] == 1.0
    assert found['probe/count'] == 19
    assert found['probe/chance'] == pytest.approx(1 / 3)
    assert clip.training


def test_the_minimum_is_that_of_the_definition():
    """The gradient of the mean cross entropy and the decay is zero, and decay shrinks the weights."""
    rows, labels = torch.randn(40, 5), torch.arange(40) % 3
    sizes = []
    for decay in (1e-1, 1e-2):
        classifier = LinearClassifier(5, 3)
        classifier.fit(rows, labels, decay)
        residual = torch.softmax(classifier(rows), 1) - torch.nn.functional.one_hot(labels, 3)
        assert_close(
            residual.mT @ rows / 40 + decay * classifier.weight, torch.zeros(3, 5), atol=1e-4, rtol=0
        )
        sizes.append(float(classifier.weight.detach().norm()))
    assert sizes[0] < sizes[1]


def test_votes_by_hand(clip, monkeypatch):
    """Two neighbors of class 0 together outweigh a nearer one of class 1."""
    angles = {'train': torch.tensor([0.35, -0.35, 0.3]), 'test': torch.tensor([0.0])}
    tables = {3: (angles['train'], torch.tensor([0, 0, 1])), 1: (angles['test'], torch.tensor([0]))}

    def batches(clip, dataset, *_):
        turn, labels = tables[len(dataset)]
        yield torch.stack([turn.cos(), turn.sin()], 1), {'labels': labels}

    monkeypatch.setattr('clipdense.evaluation.probing.embedded_batches', batches)
    assert NearestNeighbors(Colors(3), Colors(1), k=3)(clip)['knn/top1'] == 1.0
    assert NearestNeighbors(Colors(3), Colors(1), k=1)(clip)['knn/top1'] == 0.0
    assert NearestNeighbors(Colors(3), Colors(1), k=3, temperature=1e-3)(clip)['knn/top1'] == 0.0


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (
            lambda: LinearProbe(Colors(), Colors(names=('red', 'blue', 'green'))),
            "label 1 is 'green' and 'blue'",
        ),
        (
            lambda: LinearProbe(Colors(), Colors(names=('red', 'green'))),
            r"'blue' and None \(3 and 2 classes\)",
        ),
        (
            lambda: LinearProbe(Colors(), Colors(), features='patches'),
            "features must be 'pooled' or 'embeddings'",
        ),
        (lambda: LinearProbe(Colors(), Colors(), decays=()), 'decays must be numbers of at least 0'),
        (lambda: NearestNeighbors(Colors(), Colors(), k=0), 'k must be at least 1'),
        (lambda: NearestNeighbors(Colors(), Colors(), temperature=0), 'temperature above 0'),
    ],
)
def test_settings_that_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_data_that_is_refused(clip):
    with pytest.raises(InputError, match='the training images have a single class'):
        LinearProbe(Colors(single=True), Colors())(clip)
    with pytest.raises(InputError, match=r'\(test images\): the dataset has no images that can be read'):
        LinearProbe(Colors(), Colors(3, wrong=[0, 1, 2]))(clip)
    clip.image.norm_post.weight.data.fill_(float('nan'))
    with pytest.raises(InputError, match='are not finite'):
        NearestNeighbors(Colors(), Colors())(clip)
