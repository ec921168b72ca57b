"""A few images can be learned by heart, and words can be swapped afterwards."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.resnet import ModifiedResNet
from clipdense.clip.sizes import ResNetSize
from clipdense.data.scenes import SceneSegmentation
from clipdense.methods.lseg.backbones import ResNetPyramid
from clipdense.methods.lseg.evaluation import SceneSplits
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.structures import ClassEmbeddings


def words(vocabulary):
    """Unit sums of a random vector for each word of a name."""
    generator = torch.Generator().manual_seed(0)
    known = sorted({word for name in vocabulary.class_names for word in name.split()} | {'background'})
    vectors = {word: torch.randn(32, generator=generator) for word in known}
    rows = torch.stack([sum(vectors[word] for word in name.split()) for name in vocabulary.class_names])
    return ClassEmbeddings(normalize(rows, dim=-1), torch.arange(len(rows)), len(rows))


@pytest.mark.slow
def test_eight_images_are_learned_by_heart():
    torch.manual_seed(0)
    backbone = ResNetPyramid(ModifiedResNet(ResNetSize(32, 8, (1, 1, 1, 1), 4, 32)))
    model = LSeg(backbone, embed_dim=32, width=32, temperature=0.03, statistics='openai').train()
    dataset = SceneSegmentation('base', 8, 'easy')
    items = [dataset[index] for index in range(8)]
    images = model.data_preprocessor.normalize(torch.stack([item['images'] for item in items]))
    samples = [item['samples'] for item in items]
    model.set_vocabulary(dataset.vocabulary, words(dataset.vocabulary))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        loss = model(images, samples, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    with torch.no_grad():  # batch statistics: eight images have not settled the running ones
        found = model.pixel_logits(images, model.queries).argmax(1)
    assert (found == torch.stack([sample.mask for sample in samples])).float().mean() > 0.98


def test_evaluation_leaves_the_vocabulary_as_it_was(make_lseg, make_clip, make_backbone):
    model = LSeg(make_backbone('clip resnet'), make_clip(), width=16).eval()
    evaluation = SceneSplits(num_images=1, difficulty='easy')
    evaluation(model)  # without words before
    assert model.queries is None
    vocabulary = SceneSegmentation('novel', 1, 'easy').vocabulary
    model.set_vocabulary(vocabulary, class_embedder(model).embed(vocabulary))
    queries = model.queries
    found = evaluation(model)
    assert model.vocabulary is vocabulary
    assert model.queries is queries
    assert model.num_classes == len(vocabulary)
    assert set(found) == {
        f'scenes/{offered}/{part}'
        for offered in ('own', 'all')
        for part in ('base', 'novel', 'unseen', 'harmonic')
    }
