"""LSeg with the image tower's own opinion: by hand, what is seen, saved files, and bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mmengine.config import Config
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.clip import self_describing
from clipdense.clip.class_embeddings import class_embedder
from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize
from clipdense.clip.timm_tower import TimmImageTower
from clipdense.inference.load import load
from clipdense.methods.lseg.backbones import StagePyramid
from clipdense.methods.lseg.ensemble import EnsembleLSeg, geometric_ensemble
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .conftest import STAGES, TEXT

WORDS = Vocabulary(('sky', 'car', 'tree'))


@pytest.fixture
def make_ensemble(make_clip):
    """A tiny ensemble that saw 'sky' and 'car', with a vocabulary of three."""

    def make(kind='efficientnet', vocabulary=WORDS, **options):
        torch.manual_seed(0)
        model = EnsembleLSeg(**{'seen': ('Sky', 'car'), 'clip': make_clip(kind), 'width': 16, **options})
        model.set_vocabulary(vocabulary, class_embedder(model).embed(vocabulary))
        return model.eval()

    return make


def sample(mask):
    return SegmentationSample('', tuple(mask.shape), mask)


def test_the_ensemble_by_hand():
    """Weight 0: the first classifier; 1: the second; 0.5: the geometric mean, not normalized."""
    first, second = torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([[0.1, 0.5, 0.4]])
    found = geometric_ensemble(
        first.log()[..., None, None], second.log()[..., None, None], torch.tensor([0, 1, 0.5])
    )
    assert_close(found.exp().flatten(), torch.tensor([0.7, 0.5, 0.04**0.5]))


@pytest.mark.parametrize('kind', list(STAGES))
def test_seen_classes_ask_the_decoder_and_others_the_tower(make_ensemble, kind):
    model, image = make_ensemble(kind), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        log = model(image)
        trained = model.to_pixels(
            model.cell_logits(model.encode_pixels(image)[0], model.queries).log_softmax(1),
            torch.tensor([[64, 96]]),
        )
        own = normalize(model.backbone.tower.encode_dense(image), dim=1)
        own = torch.einsum('bdhw,kd->bkhw', own, model.queries / 0.05)
        own = torch.nn.functional.interpolate(own, (32, 48), mode='bilinear', align_corners=True)
        own = model.to_pixels(own.log_softmax(1), torch.tensor([[64, 96]]))
    assert model.seen_queries.tolist() == [True, True, False]
    assert_close(log[:, :2], trained[:, :2])
    assert_close(log[:, 2], own[:, 2])


def test_a_class_is_seen_by_any_of_its_names(make_ensemble):
    words = Vocabulary(('automobile', 'tree'), synonyms={'automobile': ['car']})
    assert make_ensemble(vocabulary=words).seen_queries.tolist() == [True, True, False]


def test_training_is_that_of_lseg(make_ensemble):
    """The same loss and gradients; the tower stays, and its layers after the last stage are not asked."""
    seen = Vocabulary(('sky', 'car'))
    model = make_ensemble(vocabulary=seen).train()
    images, masks = torch.randn(2, 3, 64, 64), torch.randint(0, 2, (2, 64, 64))
    loss = model.loss(images, [sample(mask) for mask in masks])['loss']
    assert_close(loss, LSeg.loss(model, images, [sample(mask) for mask in masks])['loss'])
    loss.backward()
    assert all(p.grad is None for p in model.backbone.parameters())
    assert not model.backbone.training


@pytest.mark.parametrize('budget', [1, 256 << 20])
def test_chunks_of_classes_change_nothing(make_ensemble, budget):
    words = Vocabulary(tuple(f'class {index}' for index in range(20)) + ('sky',))
    model, image = make_ensemble(vocabulary=words), torch.randn(3, 48, 70)
    whole = model.segment(image)
    model.memory_budget = budget
    assert torch.equal(model.segment(image).classes, whole.classes)


def test_an_adapter_changes_the_embeddings_of_the_decoder(make_ensemble):
    """With the same embeddings in their place, nothing changes."""
    model = make_ensemble()
    with torch.no_grad():
        features = model.encode_pixels(torch.randn(1, 3, 64, 96))
        same = model.with_pixel_embeddings(features, model.pixel_embeddings(features))
        expected = model.classify_pixels(features, model.queries)
        assert_close(model.classify_pixels(same, model.queries), expected)
        other = model.with_pixel_embeddings(features, -model.pixel_embeddings(features))
        found = model.classify_pixels(other, model.queries)
    assert_close(found[:, 2], expected[:, 2])
    assert not torch.allclose(found[:, :2], expected[:, :2])


def test_a_saved_file_is_the_same_model(make_ensemble, tmp_path):
    """Image tower, decoder, text tower and the names of the seen classes."""
    model, image = make_ensemble(), torch.randn(3, 64, 64)
    config = {'type': EnsembleLSeg, 'seen': ['Sky', 'car'], 'clip': 'somewhere', 'width': 16}
    self_describing.save(model, tmp_path / 'lseg.safetensors', Config({'model': config}))
    again = load(tmp_path / 'lseg.safetensors')
    again.set_vocabulary(WORDS, class_embedder(again).embed(WORDS))
    assert again.seen == ('Sky', 'car')
    assert torch.equal(again.segment(image).classes, model.segment(image).classes)


def test_dilated_stages_are_used_at_full_stride():
    size = STAGES['efficientnet']
    dilated = TimmImageTower(replace(size, options={'output_stride': 16})).eval()
    pyramid, image = StagePyramid(dilated).eval(), torch.randn(1, 3, 64, 64)
    assert [tuple(one.shape[-2:]) for one in pyramid(image)] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert 'output_stride' not in pyramid.tower.size.options
    for name, tensor in dilated.state_dict().items():
        assert torch.equal(pyramid.tower.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'seen': ()}, 'seen is empty: give the names of the training classes'),
        ({'seen': 'sky'}, "seen must be a list of class names, got the text 'sky'"),
        ({'tower_weights': (0.0, 1.5)}, r'two numbers from 0 to 1, got \[0.0, 1.5\]'),
        ({'tower_weights': (0.5,)}, 'tower_weights must be two numbers'),
        ({'tower_temperature': 0.0}, 'tower_temperature must be positive, got 0.0'),
        ({'kind': 'resnet'}, 'needs a StagePyramid as its backbone, got ResNetPyramid'),
    ],
    ids=['nothing seen', 'a text', 'weight', 'one weight', 'temperature', 'no stages'],
)
def test_wrong_options_are_refused(make_ensemble, options, message):
    with pytest.raises(InputError, match=message):
        make_ensemble(**options)


def test_towers_of_two_spaces_are_refused():
    tower = StagePyramid(TimmImageTower(replace(STAGES['efficientnet'], embed_dim=8)))
    clip = build_clip(ClipSize(STAGES['efficientnet'], TEXT))
    with pytest.raises(InputError, match='embeddings of 8 values, the text tower of 16: use the two towers'):
        EnsembleLSeg(('sky',), tower, clip, width=16)


def test_training_classes_must_be_seen(make_ensemble):
    model = make_ensemble(seen=('sky', 'car', 'trees')).train()
    mask = torch.zeros(32, 32, dtype=torch.int64)
    with pytest.raises(
        InputError, match=r"the class 'tree' of the training data is not in model\.seen: add it.*'trees'"
    ):
        model.loss(torch.randn(1, 3, 32, 32), [sample(mask)])
