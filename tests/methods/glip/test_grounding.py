"""Phrases of sentences, and texts of their own for the images of a batch."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from PIL import Image
from torch.testing import assert_close

from clipdense.cli.app import app
from clipdense.clip import self_describing
from clipdense.data.detection.grounding import GroundingDetection
from clipdense.data.layouts import recognize
from clipdense.evaluation.detection.phrases import PhraseRecall
from clipdense.evaluation.own_data import OwnData, phrases
from clipdense.inference.detector import Detector
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.predictor import GLIPPredictor
from clipdense.methods.glip.prompts import Prompt, phrases_prompt, positive_map
from clipdense.tasks.detection import DetectionRules
from clipdense.utils.errors import InputError
from clipdense.vocab.sentences import Sentence
from clipdense.vocab.vocabulary import Vocabulary

from .conftest import config

ALL = DetectionRules(score_threshold=0.0, iou_threshold=0.6, max_detections=50)
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 255, (60, 80, 3), dtype=np.uint8) for _ in range(3)]
HOLES = 'there are some holes on the road'


def same(one, other):
    assert_close(torch.as_tensor(one.confidence), torch.as_tensor(other.confidence), atol=1e-5, rtol=1e-4)


def test_a_sentence_is_read_as_it_stands(glip):
    model = glip()
    sentence = Sentence.of(HOLES)
    model.set_vocabulary(sentence)
    (chunk,) = model.class_text.encoded()
    encoded = model.clip([Prompt(HOLES, sentence.spans)])
    assert_close(chunk.features.hidden, encoded.features.hidden)
    length = chunk.features.mask.shape[1]
    assert_close(chunk.positive, positive_map(encoded.phrases[0], length))
    assert chunk.class_of.tolist() == [0, 1]


def test_phrases_are_read_by_themselves_as_in_training(glip):
    model = glip(prompts={'per_phrase': True})
    model.set_vocabulary(Sentence.of(HOLES))
    (chunk,) = model.class_text.encoded()
    (prompt,) = model.class_text.prompts
    assert prompt.text == 'some holes. the road'
    alone = model.clip([phrases_prompt(['some holes', 'other words'])], per_phrase=True)
    first = chunk.positive[0].bool()
    assert_close(chunk.features.hidden[0, first], alone.features.hidden[0, list(alone.phrases[0][0])])


def test_other_texts_of_the_same_phrases_are_read_anew(glip):
    detector = Detector(GLIPPredictor(glip()))
    names = ['some holes', 'the road']
    scores = [
        detector(IMAGES[0], asked, rules=ALL).confidence
        for asked in (Sentence.of(HOLES), names, Sentence.of('the road has some holes', names))
    ]
    assert not np.allclose(scores[0][:9], scores[1][:9])
    assert not np.allclose(scores[0][:9], scores[2][:9])


def test_negatives_of_a_sentence_are_read_in_a_text_of_their_own(glip):
    model = glip()
    sentence = Sentence(('some holes', 'the road', 'dog'), text=HOLES, spans=Sentence.of(HOLES).spans)
    model.set_vocabulary(sentence)
    assert [prompt.text for prompt in model.class_text.prompts] == [HOLES, 'dog']
    assert [chunk.class_of.tolist() for chunk in model.class_text.encoded()] == [[0, 1], [2]]


@pytest.mark.parametrize('options', [{}, {'prompts': {'max_names': 1}}, {'language': 'bert'}])
def test_every_image_of_a_batch_has_its_own_text(glip, options):
    predictor = GLIPPredictor(glip(**options))
    asked = [Sentence.of(HOLES), Vocabulary(('dog', 'cat', 'red star')), Sentence.of('a dog')]
    together = predictor.predict_each(IMAGES, asked, ALL)
    for found, image, vocabulary in zip(together, IMAGES, asked, strict=True):
        predictor.set_vocabulary(vocabulary)
        (alone,) = predictor.predict([image], ALL)
        same(found, alone)
        assert set(found.class_ids.tolist()) <= set(range(len(vocabulary)))


def test_ground_answers_phrases(glip):
    detector = Detector(GLIPPredictor(glip()))
    found = detector.ground(IMAGES[0], HOLES, rules=ALL)
    assert found.vocabulary.class_names == ('some holes', 'the road')
    same(found, detector(IMAGES[0], Sentence.of(HOLES), rules=ALL))
    given = detector.ground(IMAGES[0], HOLES, ['road'], rules=ALL)
    assert given.vocabulary.class_names == ('road',)
    several = detector.ground(IMAGES[:2], [HOLES, 'a dog'], rules=ALL)
    assert [one.vocabulary.class_names for one in several] == [('some holes', 'the road'), ('a dog',)]
    same(several[1], detector.ground(IMAGES[1], 'a dog', rules=ALL))
    assert len(detector.ground(IMAGES[:2], HOLES)) == 2


def test_ground_does_not_change_the_class_names(glip):
    detector = Detector(GLIPPredictor(glip()))
    detector.set_vocabulary(['dog'])
    before = detector(IMAGES[0], rules=ALL)
    detector.ground(IMAGES[0], HOLES)
    same(before, detector(IMAGES[0], rules=ALL))
    assert detector.vocabulary.class_names == ('dog',)


def test_encoded_images_are_grounded(glip):
    detector = Detector(GLIPPredictor(glip()))
    encoded = detector.encode(IMAGES[0])
    same(detector.ground(encoded, HOLES, rules=ALL), detector.ground(IMAGES[0], HOLES, rules=ALL))


@pytest.mark.parametrize(
    ('image', 'text', 'options', 'message'),
    [
        (IMAGES[0], '', {}, 'the sentence is empty'),
        (IMAGES[0], 'to run', {}, 'no noun phrase'),
        (IMAGES[0], HOLES, {'phrases': ['cat']}, "'cat' is not in the sentence"),
        (IMAGES[0], HOLES, {'phrases': 'road'}, 'must be a list'),
        (IMAGES[0], 'a dog ' * 60, {'phrases': ['dog']}, 'has 120 tokens, and 75 fit'),
        (IMAGES[:2], ['a dog'], {}, '2 images, but 1 sentence'),
        (IMAGES[:2], ['a dog', 'a cat'], {'phrases': ['dog']}, 'phrases belong to one sentence'),
        (IMAGES[0], Vocabulary(('dog',)), {'phrases': ['dog']}, 'phrases belong to one sentence'),
        (IMAGES[0], 3, {}, 'the sentence is empty'),
        (IMAGES[0], HOLES, {'threshold': 0.2}, "unknown detection rule 'threshold'"),
        ('no/such.png', HOLES, {}, 'no/such.png'),
    ],
)
def test_wrong_calls_are_refused(glip, image, text, options, message):
    with pytest.raises(InputError, match=message):
        Detector(GLIPPredictor(glip())).ground(image, text, **options)


@pytest.fixture
def scene(glip, tmp_path):
    """Exported weights, and an image."""
    cfg = Config({'model': {'type': GLIP, **config()}, 'test_dataloader': {'dataset': {'transforms': []}}})
    self_describing.save(glip(), tmp_path / 'glip.safetensors', cfg)
    Image.fromarray(IMAGES[0]).save(tmp_path / 'street.png')
    return tmp_path


def detect(folder, *options):
    files = [str(folder / 'street.png'), '--weights', str(folder / 'glip.safetensors')]
    given = [
        'detect',
        *files,
        '--out',
        str(folder / 'out'),
        '--score-threshold',
        '0',
        '--overwrite',
        *options,
    ]
    app(given, standalone_mode=False)
    return json.loads((folder / 'out/names.json').read_text())['categories']


def test_a_command_detects_the_phrases_of_a_text(scene, capsys):
    assert [one['name'] for one in detect(scene, '--text', HOLES)] == ['some holes', 'the road']
    assert 'phrases of the text: some holes, the road' in capsys.readouterr().out
    assert [one['name'] for one in detect(scene, '--text', HOLES, '--classes', 'road, HOLES')] == [
        'road',
        'holes',
    ]
    rows = json.loads((scene / 'out/detections.json').read_text())
    expected = Detector.from_pretrained(scene / 'glip.safetensors').ground(
        scene / 'street.png', HOLES, ['road', 'holes'], score_threshold=0.0
    )
    assert [row['score'] for row in rows] == pytest.approx(expected.confidence.tolist())


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--text', ''], 'the sentence is empty'),
        (['--text', 'to run'], 'no noun phrase was found'),
        (['--text', HOLES, '--classes', 'cat'], "'cat' is not in the sentence"),
        (['--text', HOLES, '--class-list', 'coco'], 'remove --class-list'),
        (['--text', HOLES, '--class-threshold', 'cat=0.5'], 'cat'),
    ],
)
def test_a_command_refuses_wrong_texts(scene, options, message):
    with pytest.raises(InputError, match=message):
        detect(scene, *options)


@pytest.fixture
def captions(scene):
    """Two captions of the image, and one of another image without boxes."""
    rows = [(1, [5, 5, 30, 30], [[10, 20]]), (1, [0, 40, 80, 20], [[24, 32]]), (2, [5, 5, 30, 30], [[0, 5]])]
    same = {'category_id': 1, 'area': 9}
    annotations = [
        {**same, 'id': 7 + number, 'image_id': image, 'bbox': box, 'tokens_positive': spans}
        for number, (image, box, spans) in enumerate(rows)
    ]
    texts = {1: HOLES, 2: 'a dog', 3: 'nothing'}
    images = [
        {'id': number, 'file_name': 'street.png', 'width': 80, 'height': 60, 'caption': caption}
        for number, caption in texts.items()
    ]
    content = {'images': images, 'annotations': annotations, 'categories': [{'id': 1, 'name': 'object'}]}
    (scene / 'captions.json').write_text(json.dumps(content))
    return scene


def test_a_command_measures_recall_of_phrases(captions, capsys):
    given = ['test', str(captions / 'glip.safetensors'), '--data', str(captions / 'captions.json'), '--json']
    app(given, standalone_mode=False)
    scores = json.loads(capsys.readouterr().out)
    assert scores.keys() == {f'{kind}R@{count}' for kind in ('', 'merged/') for count in (1, 5, 10)}
    assert 0 <= scores['R@1'] <= scores['R@5'] <= scores['R@10'] <= 1


def test_a_test_by_config_measures_the_same(captions):
    """The samples of ``GroundingDetection`` through the detector, as MMEngine's loop does."""
    model = Detector.from_pretrained(captions / 'glip.safetensors').model.model
    model.detection = model.detection.changed(score_threshold=0.0)
    data = GroundingDetection(captions / 'captions.json', captions)
    metric = PhraseRecall()
    metric.dataset_meta = data.metainfo
    batch = pseudo_collate([data[index] for index in range(3)])
    found = model.test_step(batch)
    assert [sorted(set(one.pred_instances.labels.tolist())) for one in found] == [[0, 1], [0], []]
    metric.process(None, [one.to_dict() for one in found])
    expected = phrases(Detector(GLIPPredictor(model)), OwnData(recognize(captions / 'captions.json')))
    assert metric.evaluate(3) == pytest.approx(expected)


@pytest.mark.parametrize('by_config', [False, True])
def test_an_image_with_several_captions_is_encoded_once(captions, monkeypatch, by_config):
    detector = Detector.from_pretrained(captions / 'glip.safetensors', device='cpu')
    data = GroundingDetection(captions / 'captions.json', captions)
    images = []
    features = GLIP.extract_feat
    monkeypatch.setattr(GLIP, 'extract_feat', lambda self, x: images.append(len(x)) or features(self, x))
    if by_config:
        with torch.no_grad():
            detector.model.model.test_step(pseudo_collate([data[index] for index in range(3)]))
    else:
        phrases(detector, OwnData(recognize(captions / 'captions.json')))
    assert images == [1]
