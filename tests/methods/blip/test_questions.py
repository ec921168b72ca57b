"""Fine-tuning for questions: the loss, where it starts, more words, and images of another size."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.methods.blip.answers import answer_loss
from clipdense.methods.blip.checkpoint import load, save
from clipdense.methods.blip.finetuning import BlipCaptionTrainer, BlipRetrievalTrainer
from clipdense.methods.blip.model import build_blip
from clipdense.methods.blip.questions import BlipAnswerTrainer, answering_blip, with_words
from clipdense.methods.blip.sizes import BlipSize, MedSize
from clipdense.methods.blip.tokenizer import QuestionIds, Tokens
from clipdense.tasks.answering import AnswerRules
from clipdense.utils.errors import InputError

from .conftest import tiny_blip, vocabulary_file
from .test_start import IMAGE

ANSWERS = {'answers': True, 'shared': False, 'embed_dim': 0}


def answering(**options):
    return tiny_blip(shared=False, embed_dim=0, **options)


def word_blip(words=('red', 'cat', 'a'), **options):
    torch.manual_seed(0)
    text = MedSize(32, 2, 4, 48, context_length=40, dropout=0.0, words=words)
    return build_blip(BlipSize(IMAGE, text, **{'embed_dim': 16, **options})).eval()


@pytest.fixture
def batch(tmp_path):
    ids = QuestionIds(
        tiny_blip().text_size, vocabulary_file(tmp_path), longest=9, longest_answer=5, most_answers=3
    )
    questions = [('A cat on the dog?', {'cat': 0.75, 'a dog': 0.25}), ('dogs?', {'the picture': 1.0})]
    items = [[torch.as_tensor(part) for part in ids.question_items(*one)] for one in questions]
    token_ids, answers, weights = map(torch.stack, zip(*items, strict=True))
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {'images': images, 'token_ids': token_ids, 'answer_ids': answers, 'answer_weights': weights}


def losses_of(trainer, batch):
    return trainer(**trainer.data_preprocessor(dict(batch), True), mode='loss')


def test_a_locked_image_tower_is_not_trained(batch):
    trainer = BlipAnswerTrainer(answering(), drop_path=0.5, lock_image=True).train()
    sum(losses_of(trainer, batch).values()).backward()
    trained = {name.split('.')[1] for name, one in trainer.named_parameters() if one.grad is not None}
    assert trained == {'encoder', 'decoder'}
    assert not any(module.training for module in trainer.blip.image.modules())
    assert trainer.blip.encoder.training
    free = BlipAnswerTrainer(answering()).train()
    sum(losses_of(free, batch).values()).backward()
    assert free.blip.image.patch_embed.weight.grad.any()
    assert free.blip.image.training


def test_the_loss_is_that_of_answers(batch):
    """[ENC] starts questions, [DEC] answers; padding and places without an answer count nothing."""
    trainer = BlipAnswerTrainer(answering(), smoothing=0.2).eval()
    found = losses_of(trainer, batch)['answer_loss']
    mark = int(batch['token_ids'][0, 6])  # of '?'
    questions = Tokens(torch.tensor([[59, 4, 7, 10, 11, 8, mark, 3], [59, 8, 9, mark, 3, 0, 0, 0]]), None)
    questions = Tokens(questions.ids, (questions.ids != 0).long())
    answers = torch.tensor([[58, 7, 3, 0], [58, 4, 8, 3], [58, 11, 5, 3]])
    answers = Tokens(answers, (answers != 0).long())
    blip = trainer.blip
    tokens = blip.encode_image(trainer.data_preprocessor(dict(batch))['images'])
    weights = torch.tensor([[0.75, 0.25], [1.0, 0.0]])
    assert_close(found, answer_loss(blip, tokens, questions, answers, weights, 0.2))
    alone = [
        answer_loss(
            blip, tokens[at : at + 1], Tokens(*(part[at : at + 1] for part in questions)), given, share
        )
        for at, given, share in (
            (0, Tokens(*(part[:2] for part in answers)), weights[:1]),
            (1, Tokens(*(part[2:] for part in answers)), weights[1:, :1]),
        )
    ]
    trainer.smoothing = 0.1
    assert_close(losses_of(trainer, batch)['answer_loss'], torch.stack(alone).mean())


def test_it_starts_from_pre_trained_weights():
    """Encoder and decoder keep their weights and share none; heads are left out."""
    blip = tiny_blip()
    before = {name: x.clone() for name, x in blip.state_dict().items()}
    found = answering_blip(blip)
    assert found.size.answers
    assert found.itm_head is None
    assert found.decoder.embed is not found.encoder.embed
    known = {name: x for name, x in before.items() if name.split('.')[0] in ('image', 'encoder', 'decoder')}
    assert set(found.state_dict()) == set(known)
    other = {name for name, x in found.state_dict().items() if x.shape != known[name].shape}
    assert other == {f'decoder.layers.{at}.cross.kv.weight' for at in (0, 1)}  # of 24 and 32 columns
    assert all(torch.equal(x, known[name]) for name, x in found.state_dict().items() if name not in other)
    again = answering()
    assert answering_blip(again) is again


def test_words_are_added(batch):
    blip = word_blip()
    old = blip.encoder.embed.words.weight.clone()
    trainer = BlipAnswerTrainer(blip, words=['cat', 'what', '?'])
    size = trainer.blip.text_size
    assert size.words == ('red', 'cat', 'a', 'what', '?')
    for stack in (trainer.blip.encoder, trainer.blip.decoder):
        assert stack.embed.words.weight.shape == (11, 32)
        assert torch.equal(stack.embed.words.weight[:9], old)
        assert stack.embed.words.weight.requires_grad
    assert trainer.blip.decoder.head.bias.shape == (11,)
    assert trainer.blip.tokenizer.encode('what red cat?') == [9, 6, 7, 10]
    assert trainer.blip.size == answering_blip(trainer.blip).size
    shared = with_words(word_blip(), ['what'])
    assert shared.decoder.embed is shared.encoder.embed
    assert shared.decoder.embed.words.weight.shape == (10, 32)
    assert with_words(shared, ['red', 'what']) is shared


def test_its_file_answers(tmp_path):
    trainer = BlipAnswerTrainer(word_blip(), words=['what', '?', 'yes'], image_size=48)
    trainer.export(tmp_path)
    blip = load(tmp_path / 'blip.safetensors')
    assert blip.size.answers
    assert blip.preprocess.image_size == 48
    assert blip.image.pos_embed.shape == (37, 24)
    images = torch.randn(2, 3, 48, 48)
    rules = AnswerRules(min_length=3)
    each = blip.answer_each(images, ['what?', 'a red cat?'], rules)
    crossed = blip.answer(images, ['what?', 'a red cat?'], rules)
    assert [one.text for one in each] == [crossed[0][0].text, crossed[1][1].text]
    assert [one.question for one in each] == ['what?', 'a red cat?']
    with pytest.raises(InputError, match='1 questions for 2 images'):
        blip.answer_each(images, ['what?'], rules)


@pytest.mark.parametrize(
    'train',
    [
        lambda blip, size: BlipCaptionTrainer(blip, image_size=size),
        lambda blip, size: BlipRetrievalTrainer(blip, queue_size=4, image_size=size),
        lambda blip, size: BlipAnswerTrainer(blip, image_size=size),
    ],
)
def test_images_of_another_size(train):
    """Tokens are those of positions that are resized in each step."""
    images, blip = torch.randn(1, 3, 64, 64), tiny_blip()
    with torch.no_grad():
        expected = blip.encode_image(images)
        resized = train(blip, 64).blip
        assert_close(resized.encode_image(images), expected)
    assert resized.preprocess.image_size == resized.size.image.image_size == 64
    for size, message in ((60, 'multiple of the patches of 8'), (4, 'at least 8'), (64.0, 'whole number')):
        with pytest.raises(InputError, match=message):
            train(tiny_blip(), size)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: BlipAnswerTrainer(tiny_blip(decoder=False)), 'needs a BLIP with encoder and decoder'),
        (lambda: BlipAnswerTrainer(tiny_blip(encoder=False, embed_dim=0)), 'encoder and decoder'),
        (lambda: BlipAnswerTrainer(tiny_blip(), smoothing=1), 'smoothing must be at least 0 and below 1'),
        (lambda: BlipAnswerTrainer(tiny_blip(), words=['what']), 'for one of 60 ids'),
        (lambda: BlipAnswerTrainer(word_blip(), words='what'), "got 'what'"),
        (lambda: BlipAnswerTrainer(word_blip(), words=['what is']), 'words must be single words'),
        (lambda: BlipAnswerTrainer(word_blip(), words=['what', 'what']), "words has 'what' twice"),
        (lambda: BlipAnswerTrainer(torch.nn.Linear(2, 2)), 'a BLIP is needed, got Linear'),
        (lambda: QuestionIds({}, longest=2), 'longest and longest_answer must be at least 3'),
        (lambda: QuestionIds({}, most_answers=0), 'most_answers at least 1'),
    ],
)
def test_models_and_settings_that_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'token_ids': None}, 'a question has no ids: use the tokenizer QuestionIds'),
        ({'token_ids': torch.full((2, 4), 5)}, 'questions must start with the id 2'),
        ({'answer_ids': None}, 'the dataset gives no answers'),
        ({'answer_weights': None}, 'the dataset gives no answers'),
        ({'answer_weights': torch.ones(2, 2)}, 'the dataset gives no answers'),
        ({'answer_weights': torch.zeros(2, 3)}, 'each question needs an answer with a weight above 0'),
        ({'answer_weights': torch.tensor([[1.0, -1, 0], [1, 0, 0]])}, 'and none below'),
        ({'answer_weights': torch.tensor([[1.0, 1, 1], [1, 0, 0]])}, 'a question has no ids'),
    ],
)
def test_batches_that_are_refused(batch, change, message):
    trainer = BlipAnswerTrainer(answering())
    data = {name: value for name, value in {**batch, **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        losses_of(trainer, data)


def test_a_saved_model_keeps_its_words(tmp_path):
    save(with_words(word_blip(), ['what']), tmp_path / 'blip.safetensors')
    assert load(tmp_path / 'blip.safetensors').text_size.words == ('red', 'cat', 'a', 'what')
