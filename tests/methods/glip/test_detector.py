"""The whole detector: training, detection, vocabularies and what they refuse."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from clipdense.clip.class_embeddings import PromptEnsemble
from clipdense.inference.detector import Detector
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.predictor import GLIPPredictor
from clipdense.tasks.detection import DetectionRules
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary

from .conftest import config, text_tower

ALL = DetectionRules(score_threshold=0.0, iou_threshold=0.6, max_detections=50)
IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
BOX = ([[4, 4, 30, 30]], [1])


def losses_of(model, data):
    found = model.data_preprocessor(data, True)
    return model(found['inputs'], found['data_samples'], mode='loss')


@pytest.mark.parametrize(
    ('fused', 'language', 'prompts'),
    [
        (True, 'clip', {}),
        (True, 'bert', {}),
        (False, 'clip', {}),
        (True, 'clip', {'per_phrase': True}),
        (True, 'clip', {'shuffle': True, 'negatives': 1}),
    ],
)
def test_training_lowers_the_loss(glip, vocabulary, batch, fused, language, prompts):
    model = glip(fused=fused, language=language, prompts=prompts).train()
    model.set_vocabulary(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    data, totals = batch(([[4, 4, 30, 30], [30, 30, 60, 62]], [0, 1]), BOX), []
    for _ in range(6):
        total = sum(losses_of(model, data).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[-1] < 0.8 * totals[0]


def test_every_trained_parameter_gets_a_gradient(glip, vocabulary, batch):
    model = glip().train()
    model.set_vocabulary(vocabulary)
    sum(losses_of(model, batch(BOX, BOX)).values()).backward()
    without = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    assert without == []


def test_images_without_boxes_are_trained_on(glip, vocabulary, batch):
    model = glip().train()
    model.set_vocabulary(vocabulary)
    losses = losses_of(model, batch(([], []), ([], [])))
    assert losses['loss_box'] == losses['loss_centerness'] == 0
    assert losses['loss_token'] > 0
    sum(losses.values()).backward()


@pytest.mark.parametrize(
    ('novel', 'labels', 'message'),
    [
        (['blue square'], [1], 'objects of novel classes'),
        (['red star', 'blue square', 'traffic light'], [1], 'all classes of the vocabulary are novel'),
        ([], [7], 'outside the vocabulary'),
    ],
)
def test_labels_that_cannot_be_trained_are_refused(glip, batch, novel, labels, message):
    model = glip().train()
    model.set_vocabulary(Vocabulary(('red star', 'blue square', 'traffic light'), novel=novel))
    with pytest.raises(InputError, match=message):
        losses_of(model, batch((BOX[0], labels)))


def test_without_a_vocabulary(glip, batch):
    with pytest.raises(InputError, match='no vocabulary is set'):
        losses_of(glip(), batch(BOX))
    with pytest.raises(InputError, match='no vocabulary is set'):
        GLIPPredictor(glip()).predict([IMAGE], ALL)


def test_boxes_are_inside_of_their_images(glip, vocabulary):
    predictor = GLIPPredictor(glip())
    predictor.set_vocabulary(vocabulary)
    (found,) = predictor.predict([IMAGE], ALL)
    assert 0 < len(found.confidence) <= 50
    assert bool((found.confidence[:-1] >= found.confidence[1:]).all())
    assert found.xyxy.min() >= 0
    assert bool((found.xyxy <= torch.tensor([80.0, 60, 80, 60])).all())
    assert set(found.class_ids.tolist()) <= {0, 1, 2}


def test_images_of_a_batch_do_not_change_each_other(glip, vocabulary):
    predictor = GLIPPredictor(glip())
    predictor.set_vocabulary(vocabulary)
    images = [IMAGE, IMAGE[::-1].copy(), np.zeros((40, 50, 3), np.uint8)]
    for together, image in zip(predictor.predict(images, ALL), images, strict=True):
        (alone,) = predictor.predict([image], ALL)
        assert_close(together.confidence, alone.confidence, atol=1e-5, rtol=1e-4)


def test_an_encoded_image_gives_the_same(glip, vocabulary):
    detector = Detector(GLIPPredictor(glip()))
    encoded = detector.encode(IMAGE)
    for names in (['red star', 'dog'], ['blue square']):
        found, again = (detector(one, names, score_threshold=0.0) for one in (IMAGE, encoded))
        assert np.array_equal(found.xyxy, again.xyxy)
        assert np.array_equal(found.confidence, again.confidence)


def test_class_names_are_encoded_once(glip, vocabulary, monkeypatch):
    model = glip()
    calls = []
    forward = type(model.clip).forward
    monkeypatch.setattr(
        type(model.clip), 'forward', lambda self, *given: calls.append(1) or forward(self, *given)
    )
    detector = Detector(GLIPPredictor(model))
    for _ in range(3):
        detector(IMAGE, vocabulary)
    assert len(calls) == 1
    detector(IMAGE, ['dog'])
    assert len(calls) == 2
    model.load_state_dict(model.state_dict())  # new weights
    detector(IMAGE, ['dog'])
    assert len(calls) == 3


LAST = {'per_phrase': True, 'last_token': True}


@pytest.mark.parametrize('prompts', [{}, {'per_phrase': True}, LAST, {'max_names': 2}])
def test_synonyms_and_chunks_have_the_scores_of_their_class(glip, prompts):
    names = Vocabulary(('dog', 'cat', 'red star'), {'dog': ('puppy', 'hound')})
    predictor = GLIPPredictor(glip(prompts=prompts))
    predictor.set_vocabulary(names)
    chunks = predictor.model.class_text.encoded()
    assert len(chunks) == (3 if 'max_names' in prompts else 1)
    assert torch.cat([chunk.class_of for chunk in chunks]).tolist() == [0, 0, 0, 1, 2]
    (found,) = predictor.predict([IMAGE], ALL)
    assert set(found.class_ids.tolist()) <= {0, 1, 2}


def test_per_phrase_features_do_not_depend_on_other_names(glip):
    model = glip(prompts={'per_phrase': True})
    rows = []
    for names in (['cat', 'red star'], ['red star', 'traffic light', 'cat']):
        made = model.class_text.embed(Vocabulary(tuple(names)))
        rows.append(made.queries[names.index('cat')])
    assert_close(rows[0], rows[1])
    joint = glip()
    first = joint.class_text.embed(Vocabulary(('red star', 'cat'))).queries[1]
    assert (first - joint.class_text.embed(Vocabulary(('cat', 'red star'))).queries[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ('prompts', 'count'), [({}, 15), ({'per_phrase': True}, 15), (LAST, 3)], ids=['joined', 'apart', 'last']
)
def test_two_hundred_names_are_read_in_chunks(glip, prompts, count):
    model = glip(prompts=prompts)
    names = Vocabulary(tuple(f'thing number {index}' for index in range(200)))
    predictor = GLIPPredictor(model)
    predictor.set_vocabulary(names)
    chunks = model.class_text.encoded()
    assert len(chunks) == count
    assert prompts or all(chunk.features.mask.shape[1] <= 77 for chunk in chunks)
    (found,) = predictor.predict([IMAGE], ALL)
    assert len(found.confidence) == 50


@pytest.mark.parametrize('synonyms', [{}, {'dog': ('hound', 'puppy')}], ids=['names', 'a class in two texts'])
def test_texts_do_not_change_what_is_kept(glip, synonyms):
    """With every name encoded by itself and no fusion, several texts are one."""
    names = Vocabulary(('dog', 'cat', 'red star', 'car'), synonyms)
    found = []
    for limit in ({}, {'max_names': 2}):
        predictor = GLIPPredictor(glip(fused=False, prompts={'per_phrase': True, **limit}))
        predictor.set_vocabulary(names)
        found.append(predictor.predict([IMAGE], ALL)[0])
    assert torch.equal(found[0].class_ids, found[1].class_ids)
    assert_close(found[0].xyxy, found[1].xyxy)
    assert_close(found[0].confidence, found[1].confidence)


def test_class_agnostic_suppression_goes_across_chunks(glip):
    predictor = GLIPPredictor(glip(prompts={'max_names': 1}))
    predictor.set_vocabulary(Vocabulary(('dog', 'cat')))
    both = predictor.predict([IMAGE], ALL.changed(class_agnostic=False, max_detections=1000))[0]
    one = predictor.predict([IMAGE], ALL.changed(class_agnostic=True, max_detections=1000))[0]
    assert len(one.confidence) < len(both.confidence)


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['dog ' * 90], 'has 90 tokens; 75 fit'),
        (['(food)', 'dog'], 'nothing is left of the class name'),
        ([], 'empty'),
    ],
)
def test_wrong_names_are_refused(glip, names, message):
    with pytest.raises(InputError, match=message):
        Detector(GLIPPredictor(glip()))(IMAGE, names)


def test_names_that_are_one_text_are_told(glip):
    with pytest.warns(UserWarning, match="both read as 'cup'"):
        Detector(GLIPPredictor(glip()))(IMAGE, ['cup (drink)', 'cup (trophy)'])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'frozen': ('neckk',)}, r"frozen contains unknown parts \['neckk'\]"),
        ({'clip': text_tower(width=32)}, 'the text tower has width 32, the head text_width=24'),
        ({'prompts': {'seperator': ' '}}, 'seperator'),
        ({'clip': 'no/such/file.pt'}, 'cannot load the text tower'),
        ({'candidates': {'threshold': 2}}, 'threshold'),
    ],
)
def test_wrong_configs_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        GLIP(**config(**options))


def test_another_text_tower_is_refused(glip):
    predictor = GLIPPredictor(glip())
    with pytest.raises(InputError, match='text tower that it was trained with: remove clip'):
        predictor.clip = torch.nn.Identity()


@pytest.mark.parametrize(
    'options',
    [{'embedder': SimpleNamespace(embed=lambda vocabulary: None)}, {'embedder': PromptEnsemble}],
    ids=['an embedder', 'templates'],
)
def test_class_embeddings_have_no_effect_and_are_refused(glip, options):
    predictor = GLIPPredictor(glip())
    embedder = options['embedder']
    embedder = embedder(predictor.clip, 'simple') if embedder is PromptEnsemble else embedder
    with pytest.raises(InputError, match='reads class names together with the image'):
        Detector(predictor, embedder)


def test_frozen_parts_stay_as_they_are(glip, vocabulary, batch):
    model = glip(frozen=('backbone', 'clip')).train()
    model.set_vocabulary(vocabulary)
    assert not model.backbone.training
    sum(losses_of(model, batch(BOX)).values()).backward()
    assert all(one.grad is None for part in (model.backbone, model.clip) for one in part.parameters())
    assert all(one.grad is not None for one in model.head.parameters())
