"""Inputs of the section "Questions about images" of docs/input_contract.md."""

from __future__ import annotations

import json

import pytest
import torch
from mmengine.logging import MMLogger

from clipdense.data.image_text.question_files import QuestionList, VqaQuestions
from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.evaluation.answering import AnswerAccuracy, vqa_accuracy
from clipdense.inference.measuring import measure
from clipdense.methods.blip.checkpoint import save
from clipdense.methods.blip.questions import BlipAnswerTrainer
from clipdense.methods.blip.sizes import MedSize
from clipdense.methods.blip.tokenizer import CaptionIds, QuestionIds

from ..data.image_text.test_questions import ENTRY, changed, write_list, write_vqa
from ..methods.blip.conftest import tiny_blip
from ..methods.blip.test_questions import word_blip

SECTION = 'Questions about images'
WORDS = ['what', 'is', 'this', '?', 'a', 'dog', 'cat', 'yes', 'no']
FINE = [ENTRY] * 30  # so that a few others may be skipped


def targets(folder, *entries):
    data = QuestionList(write_list(folder, [*entries]))
    return [data.question(index).targets for index in range(len(data))]


def listed(*entries):
    """The entries among others that are fine."""
    return lambda folder: QuestionList(write_list(folder, [*FINE, *entries]))


def vqa(questions=None, annotations=None):
    """VQA with many questions, of which some are changed."""

    def read(folder):
        def more(entries):
            return [{**entries[0], 'question_id': 100 + at} for at in range(30)]

        files = write_vqa(
            folder,
            lambda asked: more(asked) + (questions or list)(asked),
            lambda given: more(given) + (annotations or list)(given),
        )
        VqaQuestions(*files)

    return read


def train(folder, entries=(ENTRY, ENTRY), blip=None, tokenizer=None, **options):
    """A step on questions."""
    ids = tokenizer or QuestionIds(MedSize(words=WORDS), longest=8, longest_answer=4, most_answers=2)
    data = QuestionList(write_list(folder, [*entries]), tokenizer=ids)
    trainer = BlipAnswerTrainer(blip or word_blip(words=WORDS), **options).train()
    batch = {name: torch.stack([data[0][name], data[1][name]]) for name in ids_of(data[0])}
    batch['images'] = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    wrapper = PrecisionOptimWrapper(torch.optim.SGD(trainer.parameters(), lr=0.01), 'fp32')
    assert trainer.train_step(batch, wrapper)['loss'].isfinite()
    return trainer


def ids_of(item):
    return [name for name in item if name.endswith(('ids', 'weights'))]


def unreadable(folder):
    file = write_list(folder, FINE)
    (folder / 'a.png').write_text('no image')
    data = QuestionList(file, max_bad_fraction=1)
    assert data.unreplaced()[0]['index'] == -1


def same_answers():
    assert vqa_accuracy('The Dog', ['dog', 'a dog', 'dog!', 'dog']) == 1


def measured(kind):
    """`clipdense test` of a BLIP on questions."""

    def score(folder):
        blip = (
            word_blip(words=WORDS) if kind == 'retrieval' else BlipAnswerTrainer(word_blip(words=WORDS)).blip
        )
        save(blip, folder / 'blip.safetensors')
        file = write_list(folder, [changed(answer='a dog'), changed(answer='a cat')])
        if kind == 'alone':
            file.write_text(json.dumps({'questions': []}))
        metrics, own = measure(folder / 'blip.safetensors', file, device='cpu')
        assert own.layout.kind == 'questions'
        assert {'answers/accuracy', 'answers/most_frequent', 'ranking/accuracy'} <= set(metrics)
        assert metrics['answers/questions'] == 2

    return score


def captions_for_questions(folder):
    data = QuestionList(write_list(folder, [ENTRY]))
    ids = torch.as_tensor(CaptionIds(MedSize(words=WORDS), longest=6)([data.question(0).text] * 2))
    trainer = BlipAnswerTrainer(word_blip(words=WORDS))
    trainer(torch.zeros(2, 3, 32, 32), token_ids=ids, mode='loss')


def truncated(folder):
    trainer = train(folder, [changed(question='what ' * 20, answer='a dog ' * 9)] * 2)
    assert trainer.blip.size.answers


def few(folder):
    ids = QuestionIds(MedSize(words=WORDS), most_answers=1)
    assert ids.question_items('what', {'no': 0.2, 'yes': 0.8})[2].tolist() == pytest.approx([0.8])


def one_answer(folder):
    assert [vqa_accuracy(answer, ['dog']) for answer in ('a dog', 'cat')] == [1, 0]
    measured('answers')(folder)


def forms(folder):
    found = targets(folder, changed(answer='a'), changed(answer=None, answers=['a', 'b']), ENTRY)
    assert found[:2] == [{'a': 1}, {'a': 0.5, 'b': 0.5}]


def weighted(folder):
    assert targets(folder, changed(weights=[1, 2, 3, 4])) == [{'a dog': 3, 'a cat': 3, 'dog': 4}]


def genome(folder):
    assert targets(folder, changed(answer='a', dataset='vg')) == [{'a': 0.2}]


def empty_beside(folder):
    assert targets(folder, changed(answer=['', 'a'])) == [{'a': 1}]


def ten(folder):
    data = VqaQuestions(*write_vqa(folder))
    assert data.question(0).targets == pytest.approx({'a dog': 0.6, 'dog': 0.4})
    AnswerAccuracy(data)


READ = {
    'VQA v2, ten answers each': ten,
    'list with `answer`, `answers`, or one text': forms,
    '`weights` of the answers': weighted,
    '`dataset` is `vg`': genome,
    'empty answers beside others': empty_beside,
    'answers that differ in case or articles': lambda at: same_answers(),
    'question of punctuation only, in training': lambda at: train(at, [changed(question='!!')] * 2),
    'question or answer longer than `longest`': truncated,
    'more different answers than `most_answers`': few,
    'one answer of each question, in a test': one_answer,
    'image that is missing': listed(changed(image='gone.png')),
    'image that cannot be read': unreadable,
    'question without annotation': vqa(lambda asked: [{**asked[0], 'question_id': 7}]),
    'annotation of an unknown question': vqa(None, lambda given: [*given, {**given[0], 'question_id': 7}]),
    'annotation of another image': vqa(lambda asked: [{**asked[0], 'image_id': 2}]),
    'empty question': listed(changed(question=' ')),
    'no answer, or empty ones only': listed(changed(answer=[]), changed(answer=['', ' '])),
    'answer that is a number': listed(changed(answer=[1, 'a'])),
    'weights of the wrong length, 0, or no numbers': listed(
        changed(weights=[1]), changed(weights=[0, 1, 1, 1]), changed(weights=['1'] * 4)
    ),
    'entry that is not an object': listed(3),
    'nothing that can be used': lambda at: QuestionList(write_list(at, [changed(answer=[])])),
    'question id that occurs twice': lambda at: QuestionList(write_list(at, [changed(question_id=1)] * 2)),
    'image outside of the folder': listed(changed(image='../a.png')),
    'questions without their annotations, in a test': measured('alone'),
    'questions for a BLIP that retrieves': measured('retrieval'),
    'questions by `CaptionIds`': captions_for_questions,
    'pre-trained BLIP, to be trained': train,
    'BLIP for captions, to be trained': lambda at: train(at, blip=tiny_blip(encoder=False, embed_dim=0)),
    "`words` for a BLIP with BERT's vocabulary": lambda at: train(at, blip=tiny_blip(), words=['what']),
    '`image_size` that is not a multiple of the patches': lambda at: train(at, image_size=60),
}


@pytest.fixture(autouse=True)
def _logged(caplog):
    """What is skipped is logged, not warned of."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield
    logger.removeHandler(caplog.handler)


def test_row(row, check):
    check(row, READ)
