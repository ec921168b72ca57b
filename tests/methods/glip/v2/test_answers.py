"""GLIPv2's question answering: the head, its loss, what is learned, and files that answer."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch
from mmengine.config import Config
from PIL import Image
from torch.testing import assert_close

from clipdense import Answerer, AnswerRules
from clipdense.clip import self_describing
from clipdense.data.detection.mixture import DetectionMixture
from clipdense.data.detection.whole_images import QuestionDetection
from clipdense.data.image_text.question_files import QuestionList
from clipdense.evaluation.answering import AnswerAccuracy
from clipdense.inference.measuring import measure
from clipdense.methods.glip.detector import GLIP
from clipdense.methods.glip.parts import DetDataPreprocessor
from clipdense.methods.glip.v2.answer_head import AnswerHead
from clipdense.methods.glip.v2.detector import GLIPv2
from clipdense.utils.errors import InputError

from ..conftest import config

ANSWERS = ('red', 'blue', 'yes', 'no')
COLORS = {'red': (230, 20, 20), 'blue': (20, 20, 230)}
COLOR, IS_RED = 'what color is it?', 'is it red?'
ASKED = [  # image, question, answers of people
    ('red', COLOR, ['red']),
    ('blue', COLOR, ['blue', 'blue', 'violet']),
    ('red', IS_RED, ['Yes', 'yes']),
    ('blue', IS_RED, ['no']),
]
RGB = dict(mean=[123.0, 116.0, 103.0], std=[58.0, 57.0, 57.0])


def glipv2(kind=GLIPv2, **options):
    torch.manual_seed(0)
    objectives = options.pop('objectives', {'answers': {'answers': ANSWERS, 'image_size': 64}})
    return kind(objectives=objectives, **config(**options))


def write(folder):
    """A list of questions, and its images, which have another size than those of the model."""
    for name, color in COLORS.items():
        Image.new('RGB', (80, 50), color).save(folder / f'{name}.png')
    rows = [{'image': f'{name}.png', 'question': text, 'answer': given} for name, text, given in ASKED]
    (folder / 'questions.json').write_text(json.dumps(rows))
    return folder


@pytest.fixture
def files(tmp_path):
    return write(tmp_path)


@pytest.fixture
def questions(files):
    return QuestionDetection(QuestionList(files / 'questions.json'), image_size=64)


def batch_of(*datasets):
    items = [one for dataset in datasets for one in dataset]
    return {key: [one[key] for one in items] for key in ('inputs', 'data_samples')}


def losses_of(model, data):
    found = model.data_preprocessor(data, True)
    return model(found['inputs'], found['data_samples'], mode='loss')


@pytest.fixture(scope='module')
def learned(tmp_path_factory):
    """A model that was trained on the four questions."""
    listed = QuestionList(write(tmp_path_factory.mktemp('learned')) / 'questions.json')
    data, model = batch_of(QuestionDetection(listed, image_size=64)), glipv2().train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        losses_of(model, copy.deepcopy(data))['loss_answers'].backward()
        optimizer.step()
    return model.eval()


class TestHead:
    def test_logits_do_not_depend_on_padding(self):
        head = AnswerHead(6, ANSWERS).double()
        text = torch.randn(1, 3, 6, dtype=torch.float64)
        padded = torch.cat([text, torch.randn(1, 2, 6, dtype=torch.float64)], dim=1)
        alone = head(text, torch.ones(1, 3, dtype=torch.bool))
        assert_close(head(padded, torch.tensor([[True] * 3 + [False] * 2])), alone)
        assert_close(alone, head.out(head.norm(torch.nn.functional.gelu(head.fc(text.mean(dim=1))))))

    def test_loss(self):
        """In plain numbers; a question whose answers are all unknown does not count."""
        head = AnswerHead(6, ('yes', 'no', 'red'))
        text, mask = torch.randn(3, 2, 6), torch.ones(3, 2, dtype=torch.bool)
        given = [{'Yes': 0.5, 'yes ': 0.2, 'purple': 0.3}, {'violet': 1.0}, {'red': 1.0}]
        targets = {0: (0.7, 0.0, 0.0), 2: (0.0, 0.0, 1.0)}
        total = 0.0
        for row, wanted in targets.items():
            for logit, target in zip(head(text, mask)[row].tolist(), wanted, strict=True):
                share = 1 / (1 + math.exp(-logit))
                total -= target * math.log(share) + (1 - target) * math.log(1 - share)
        assert head.loss(text, mask, given).item() == pytest.approx(total / 2, rel=1e-5)

    def test_without_a_question(self):
        head = AnswerHead(6, ANSWERS)
        loss = head.loss(torch.randn(0, 3, 6), torch.ones(0, 3, dtype=torch.bool), [])
        assert loss == 0
        loss.backward()
        assert all(one.grad is not None for one in head.parameters())

    def test_unknown_answers_only(self):
        head = AnswerHead(6, ANSWERS)
        one = torch.randn(1, 3, 6), torch.ones(1, 3, dtype=torch.bool), [{'violet': 1.0}]
        for _ in range(49):
            assert head.loss(*one) == 0
        with pytest.warns(UserWarning, match="first 50 batches with questions .* the last one 'violet'"):
            head.loss(*one)

    def test_answers_of_a_file(self, tmp_path):
        (tmp_path / 'answers.txt').write_text('yes\nno\n\nlight blue\n')
        assert AnswerHead(6, tmp_path / 'answers.txt').answers == ('yes', 'no', 'light blue')

    @pytest.mark.parametrize(
        ('settings', 'message'),
        [
            ({'answers': []}, 'needs at least 2 answers, got 0'),
            ({'answers': ['yes']}, 'needs at least 2 answers, got 1'),
            ({'answers': ['yes', 'no', ' Yes']}, "answer 3 .' Yes'. is the same as answer 1 .'yes'."),
            ({'answers': ['yes', ' ']}, "answer 2 must be a text with words, got ' '"),
            ({'answers': ['yes', 3]}, 'answer 2 must be a text with words, got 3'),
            ({'answers': 5}, 'must be a list of texts or a text file, got 5'),
            ({'answers': 'missing.txt'}, 'missing.txt'),
            ({'answers': ANSWERS, 'image_size': 0}, 'image_size of the answers must be a whole number'),
            ({'answers': ANSWERS, 'width': 1.5}, 'width of the answers must be a whole number'),
            ({'answers': ANSWERS, 'classes': 3}, 'AnswerHead: .*classes'),
            ({}, "AnswerHead: .*'answers'"),
        ],
    )
    def test_wrong_settings_are_refused(self, settings, message):
        with pytest.raises(InputError, match=message):
            glipv2(objectives={'answers': settings})

    def test_answers_need_fused_text(self):
        with pytest.raises(InputError, match='answers are predicted from the fused text'):
            glipv2(fused=False)


class TestTraining:
    def test_it_learns_questions_about_images(self, learned, files):
        """Neither the question alone nor the image alone has the answer."""
        answerer = Answerer(learned)
        found = answerer([str(files / f'{name}.png') for name in COLORS], [COLOR, IS_RED])
        assert [[one.text for one in of_image] for of_image in found] == [['red', 'yes'], ['blue', 'no']]
        assert found[0][1].question == IS_RED
        assert all(-0.7 < one.score <= 0 for of_image in found for one in of_image)

    def test_gradients(self, questions, batch, vocabulary):
        """Of all parameters, from boxes and questions in one batch, and from questions alone."""
        boxes = [dict(zip(['inputs', 'data_samples'], one, strict=True)) for one in _pairs(batch)]
        for datasets in ([boxes, questions], [questions], [boxes]):
            model = glipv2(objectives={'answers': {'answers': ANSWERS, 'image_size': 64}, 'contrast': {}})
            model.train().set_vocabulary(vocabulary)
            losses = losses_of(model, batch_of(*datasets))
            assert all(torch.isfinite(one) for one in losses.values())
            sum(losses.values()).backward()
            assert [n for n, one in model.named_parameters() if one.requires_grad and one.grad is None] == []
            assert model.answers.fc.weight.grad.any() == (questions in datasets)

    def test_images_of_questions_are_no_background(self, questions, batch, vocabulary):
        """Their objects have no boxes, so that boxes and words are not trained on them."""
        boxes = [dict(zip(['inputs', 'data_samples'], one, strict=True)) for one in _pairs(batch)]
        model = glipv2(objectives={'answers': {'answers': ANSWERS, 'image_size': 64}, 'contrast': {}}).eval()
        model.set_vocabulary(vocabulary)
        both, alone = losses_of(model, batch_of(boxes, questions)), losses_of(model, batch_of(boxes))
        for name in alone.keys() - {'loss_answers'}:
            assert_close(both[name], alone[name], atol=1e-5, rtol=1e-5)
        only = losses_of(model, batch_of(questions))
        assert [name for name, one in only.items() if one.item()] == ['loss_answers']
        assert_close(only['loss_answers'], both['loss_answers'], atol=1e-5, rtol=1e-5)

    def test_weight(self, questions):
        data, found = batch_of(questions), []
        for weight in (1.0, 0.5):
            found.append(losses_of(glipv2(weights={'answers': weight}).eval(), data)['loss_answers'])
        assert_close(found[1], found[0] / 2)

    def test_a_question_that_is_too_long(self, files):
        rows = [{'image': 'red.png', 'question': 'is it red? ' * 40, 'answer': 'yes'}]
        (files / 'long.json').write_text(json.dumps(rows))
        dataset = QuestionDetection(QuestionList(files / 'long.json'), image_size=64)
        with pytest.warns(UserWarning, match='the question .* has 160 tokens, and 75 fit: its end is left'):
            assert torch.isfinite(losses_of(glipv2(), batch_of(dataset))['loss_answers'])

    @pytest.mark.parametrize(
        ('model', 'message'),
        [
            (lambda: GLIP(**config()), 'has questions: use type=GLIPv2 with objectives=dict.answers'),
            (lambda: glipv2(objectives={'contrast': {}}), 'has questions: use type=GLIPv2'),
            (
                lambda: glipv2(objectives={'answers': {'answers': ANSWERS}}),
                'have 64 x 64 pixels, and objectives.answers.image_size is 480',
            ),
        ],
    )
    def test_models_that_cannot_learn_them(self, questions, model, message):
        with pytest.raises(InputError, match=message):
            losses_of(model(), batch_of(questions))


def _pairs(batch):
    data = batch(([[4, 4, 30, 30], [30, 30, 60, 62]], [0, 1]))
    return list(zip(data['inputs'], data['data_samples'], strict=True))


class TestData:
    def test_samples(self, questions):
        image, sample = questions[1]['inputs'], questions[1]['data_samples']
        assert image.shape == (3, 64, 64)
        assert image[:, 0, 0].tolist() == list(COLORS['blue'])
        assert sample.question == COLOR
        assert sample.answers == pytest.approx({'blue': 2 / 3, 'violet': 1 / 3})
        assert len(sample.gt_instances.bboxes) == 0

    def test_an_unreadable_image(self, files):
        (files / 'red.png').write_bytes(b'no image')
        dataset = QuestionDetection(QuestionList(files / 'questions.json', max_bad_fraction=1.0), 64)
        assert [one['data_samples'].question for one in dataset] == [COLOR, COLOR, IS_RED, IS_RED]
        assert dataset[0]['data_samples'].img_id == 1
        (files / 'blue.png').write_bytes(b'no image')
        with pytest.raises(InputError, match='none of the 4 images can be read'):
            dataset[0]

    def test_in_a_mixture(self, files):
        listed = dict(type=QuestionList, files=str(files / 'questions.json'))
        mixture = DetectionMixture(
            dict(asked=dict(type=QuestionDetection, questions=listed, image_size=32)), dict(asked=2)
        )
        mixture.set_epoch(1)
        assert (len(mixture), mixture.has_texts) == (8, True)
        assert mixture[5]['data_samples'].question == COLOR

    @pytest.mark.parametrize(
        ('dataset', 'size', 'message'),
        [
            (lambda _: [1, 2], 64, 'list has no question.index.'),
            (lambda file: QuestionList(file, transform=lambda image, rng: image), 64, 'remove transform'),
            (QuestionList, 0, 'image_size must be a whole number'),
        ],
    )
    def test_wrong_settings_are_refused(self, files, dataset, size, message):
        with pytest.raises(InputError, match=message):
            QuestionDetection(dataset(files / 'questions.json'), size)


class TestAnswers:
    @pytest.fixture
    def saved(self, learned, files):
        answers = files / 'answers.txt'
        answers.write_text('\n'.join(ANSWERS))
        objectives = {'answers': {'answers': str(answers), 'image_size': 64}}
        cfg = Config({'model': {'type': GLIPv2, 'objectives': objectives, **config()}})
        self_describing.save(learned, files / 'glip.safetensors', cfg)
        answers.unlink()  # the weights have them
        return files / 'glip.safetensors'

    def test_a_file_answers_as_the_model(self, learned, saved, files):
        images, asked = [str(files / f'{name}.png') for name in COLORS], [COLOR, IS_RED]
        loaded = Answerer.from_pretrained(saved)
        assert loaded.model.answers.answers == ANSWERS
        assert loaded(images, asked) == Answerer(learned)(images, asked)

    def test_accuracy(self, learned, saved, files):
        """In a training, and of a file."""
        data = QuestionList(files / 'questions.json')
        best = pytest.approx((3 + 2 / 3) / 4)  # one person said something else
        assert AnswerAccuracy(data)(learned)['answers/accuracy'] == best
        assert measure(saved, files / 'questions.json')[0]['answers/accuracy'] == best
        with pytest.raises(InputError, match=r"1 of 6 choices are none of the 4 answers .*: 'violet'"):
            AnswerAccuracy(data, by='ranking')(learned)

    def test_questions_of_a_batch_do_not_change_each_other(self, learned):
        images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        asked, rules = ['is it red?', 'what is the color of the whole large image?'], AnswerRules()
        for row, found in enumerate(learned.answer_each(images, asked, rules)):
            alone = learned.answer(images[row : row + 1], asked[row : row + 1], rules)[0][0]
            assert (found.text, found.question) == (alone.text, asked[row])
            assert found.score == pytest.approx(alone.score, abs=1e-5)

    def test_choices(self, learned, files):
        image = str(files / 'red.png')
        assert Answerer(learned, AnswerRules(['Blue', 'NO']))(image, COLOR).text in ('Blue', 'NO')
        with pytest.raises(InputError, match=r"2 of 3 choices are none of .*: 'green', 'pink'; choose"):
            Answerer(learned, AnswerRules(['red', 'green', 'pink']))

    def test_images_are_those_of_training(self, questions, files):
        """Normalized in the same way, also where the channels change places and a side is padded."""
        prepared = dict(type=DetDataPreprocessor, **RGB, bgr_to_rgb=True, pad_size_divisor=32)
        objectives = {'answers': {'answers': ANSWERS, 'image_size': 50}}
        options = config() | {'data_preprocessor': prepared}
        model = GLIPv2(objectives=objectives, **options).eval()
        dataset = QuestionDetection(QuestionList(files / 'questions.json'), image_size=50)
        trained = model.data_preprocessor(batch_of(dataset), False)['inputs']
        seen = []
        extract = model.extract_feat
        model.extract_feat = lambda images: seen.append(images) or extract(images)
        image = model.preprocess(Image.open(files / 'red.png').convert('RGB'))
        model.answer(image[None], [COLOR], AnswerRules())
        assert_close(seen[0], trained[:1], atol=1e-5, rtol=1e-5)

    def test_a_question_that_is_too_long(self, learned, files):
        with pytest.raises(InputError, match='has 160 tokens, and 75 fit: shorten it'):
            Answerer(learned)(str(files / 'red.png'), 'is it red? ' * 40)

    @pytest.mark.parametrize('objectives', [{'contrast': {}}, None])
    def test_weights_without_the_head(self, objectives, glip, files):
        model = glipv2(objectives=objectives) if objectives else glip()
        described = {'type': type(model), **({'objectives': objectives} if objectives else {}), **config()}
        self_describing.save(model, files / 'glip.safetensors', Config({'model': described}))
        plain = 'cannot answer questions about images: use weights of a BLIP .*, or of a GLIPv2 that was'
        message = 'do not answer questions' if objectives else plain
        with pytest.raises(InputError, match=message):
            Answerer.from_pretrained(files / 'glip.safetensors')
        with pytest.raises(InputError, match='do not answer questions: use those of a GLIPv2'):
            measure(files / 'glip.safetensors', files / 'questions.json')
