"""Adapters trained on images by the runner's model, and on stored embeddings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.data.classification.datasets import LabeledFolder
from clipdense.data.transforms import CenterCrop
from clipdense.inference.adapters import read_adapter
from clipdense.inference.classifier import Classifier
from clipdense.methods.adapters.cache import KeyValueCache
from clipdense.methods.adapters.classifier import AdapterClassifier
from clipdense.methods.adapters.residual import ClipAdapter
from clipdense.methods.adapters.train import fit
from clipdense.structures import ClassEmbeddings
from clipdense.tasks.adapters import source_digest
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary
from clipdense.weights.io import read_weights

NAMES = ('cat', 'dog', 'hot dog')
ADAPTERS = {
    'clip_adapter': lambda: ClipAdapter(16, 'both', reduction=1, ratio=0.5),
    'tip_f': lambda: KeyValueCache(torch.randn(3, 16), [0, 1, 2], NAMES),
}


@pytest.fixture
def batch(clip, pets):
    items = [LabeledFolder(pets, transform=CenterCrop.of(clip.preprocess))[index] for index in range(18)]
    return {
        'images': torch.stack([one['images'] for one in items]),
        'labels': torch.tensor([one['labels'] for one in items]),
    }


@pytest.mark.parametrize('kind', ADAPTERS)
def test_steps_lower_the_loss_and_change_the_adapter_only(clip, batch, kind):
    model = AdapterClassifier(clip, ADAPTERS[kind](), NAMES, 'simple').train()
    before = source_digest(clip)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-2)
    losses = []
    for _ in range(15):
        data = model.data_preprocessor(batch, True)
        loss = model(**data, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert source_digest(clip) == before
    assert not clip.training


@pytest.mark.parametrize('kind', ADAPTERS)
def test_what_is_stored_is_the_adapter(clip, batch, pets, kind, tmp_path):
    model = AdapterClassifier(clip, ADAPTERS[kind](), NAMES, 'imagenet').eval()
    assert {name.split('.')[0] for name in model.state_dict()} == {'adapter'}
    model.load_state_dict(model.state_dict())
    file = model.export(tmp_path)
    assert read_adapter(file).origin.weights == source_digest(clip)
    with torch.no_grad():
        expected = model(**model.data_preprocessor({'images': batch['images'][:1]})).softmax(1)[0]
    found = Classifier.from_pretrained(clip, cache=False, adapter=file)(pets / 'cat/0.png', list(NAMES))
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-2)


def test_the_file_of_a_cache_is_trained_further(clip, tmp_path):
    ADAPTERS['tip_f']().save(tmp_path / 'tip.safetensors')
    model = AdapterClassifier(clip, tmp_path / 'tip.safetensors', NAMES)
    assert [name for name, one in model.named_parameters() if one.requires_grad] == ['adapter.keys']


@pytest.mark.parametrize(
    ('kind', 'wrong', 'message'),
    [
        (
            'clip_adapter',
            lambda: ClipAdapter(16),
            "has sides='both', but the adapter .* has 'image'",
        ),
        (
            'tip_f',
            lambda: KeyValueCache(torch.randn(3, 16), [0, 1, 2], ('dog', 'cat', 'hot dog')),
            "has class_names=.*, but the adapter of the config has .'dog'",
        ),
        ('clip_adapter', ADAPTERS['tip_f'], 'has a ClipAdapter, not a KeyValueCache'),
    ],
)
def test_an_exported_adapter_is_read_as_a_checkpoint(clip, kind, wrong, message, tmp_path):
    model = AdapterClassifier(clip, ADAPTERS[kind](), NAMES, 'simple')
    if kind == 'tip_f':
        model.adapter.set_strength(2.0, 3.0)
    file = read_weights(model.export(tmp_path))
    other = AdapterClassifier(clip, ADAPTERS[kind](), NAMES, 'simple')
    other.load_state_dict(other.own_tensors(file))
    x = torch.randn(2, 3, 16, 16)
    assert_close(other(x), model(x))
    with pytest.raises(InputError, match=message):
        AdapterClassifier(clip, wrong(), NAMES, 'simple').own_tensors(file)


def test_new_classes_without_keys_are_zero_shot(clip):
    model = AdapterClassifier(clip, ADAPTERS['tip_f'](), NAMES, 'simple')
    x = torch.randn(2, 3, 16, 16)
    with_keys = model(x)
    with pytest.warns(UserWarning, match='none of the classes has keys in the cache: zero-shot logits only'):
        model.set_classes(['cow', 'horse'])
    classes = PromptEnsemble(clip, 'simple', cache=None).embed(Vocabulary(('cow', 'horse'))).queries
    expected = clip.logit_scale.exp() * clip.encode_image(x, normalize=True) @ classes.mT
    assert_close(model(x), expected)
    model.set_classes(NAMES)
    assert_close(model(x), with_keys)


def test_a_cache_of_classes_that_are_not_trained(clip):
    with pytest.raises(InputError, match="has 1 class that the model is not trained on, such as 'hot dog'"):
        AdapterClassifier(clip, ADAPTERS['tip_f'](), NAMES[:2], 'simple')


def test_classes_can_be_changed(clip, batch):
    model = AdapterClassifier(clip, {'type': ClipAdapter}, NAMES)
    model.set_classes(['cow', 'horse'])
    assert model.class_names == ('cow', 'horse')
    assert model(model.data_preprocessor(batch)['images']).shape == (18, 2)
    with pytest.raises(InputError, match='label 2 in the dataset, but only 2 class names'):
        model(**model.data_preprocessor(batch), mode='loss')


def test_refused(clip, batch):
    model = AdapterClassifier(clip, ClipAdapter(16))
    with pytest.raises(InputError, match='no class names: pass class_names, or call set_classes'):
        model(**model.data_preprocessor(batch), mode='loss')
    with pytest.raises(InputError, match='for embeddings of dimension 8, the model has 16'):
        AdapterClassifier(clip, ClipAdapter(8))
    with pytest.raises(InputError, match='training needs labels'):
        AdapterClassifier(clip, ClipAdapter(16), NAMES)(torch.zeros(1, 3, 16, 16), mode='loss')


def test_unreadable_images_do_not_count(clip, batch):
    model = AdapterClassifier(clip, ClipAdapter(16), NAMES)
    data = model.data_preprocessor(batch)
    one = model(data['images'][:2], data['labels'][:2], mode='loss')
    two = model(data['images'][:3], torch.cat([data['labels'][:2], torch.tensor([-1])]), mode='loss')
    assert_close(one['loss'], two['loss'])


@pytest.mark.parametrize('kind', ADAPTERS)
def test_stored_embeddings(kind):
    x, labels = normalize(torch.randn(30, 16), dim=1), torch.arange(3).repeat(10)
    classes = ClassEmbeddings(normalize(torch.randn(3, 16), dim=1), torch.arange(3), 3)
    adapter = ADAPTERS[kind]()
    if kind == 'tip_f':
        with pytest.raises(InputError, match='nothing to train'):
            fit(adapter, x, labels, classes, Vocabulary(NAMES), 10.0)
        adapter.trainable()
    losses = fit(adapter, x, labels, classes, Vocabulary(NAMES), 10.0, epochs=20, lr=1e-2)
    assert len(losses) == 20
    assert losses[-1] < losses[0]
