"""Accuracy of answers to questions about images, as VQA measures it.  B: images, each with a question."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any, Literal, get_args

from torch import Tensor

from clipdense.data.image_text.questions import common_answers
from clipdense.registry import DATASETS, EVALUATIONS, build
from clipdense.tasks.answering import AnswerRules
from clipdense.utils.errors import InputError, nearest
from clipdense.utils.modules import evaluating

from .embedding import readable_batches
from .own_data import OwnData

By = Literal['generation', 'ranking']
_NEEDED = 3  # people who gave an answer that is fully right
_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = ('a', 'an', 'the')
_NUMBERS = ('zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine', 'ten')
_DIGITS = {'none': '0', **{name: str(number) for number, name in enumerate(_NUMBERS)}}
_THOUSANDS = re.compile(r'\d,\d')
_PERIOD = re.compile(r'\.(?!\d)')
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't
must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's something'd
something'd've something'll that's there'd there'd've there're there's they'd they'd've they'll they're
they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've
who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {  # without one of its apostrophes -> with all
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, sign in enumerate(word)
    if sign == "'"
}


def normalize_answer(text: str) -> str:
    """An answer as VQA compares it: lower case, digits, apostrophes, no articles and no punctuation.

    Source: the evaluation code of VQA v2 (Goyal et al., arXiv 1612.00837), whose signs become a space inside
        of a word and nothing beside a space.
    """
    text = text.replace('\n', ' ').replace('\t', ' ').strip()
    drop_all = _THOUSANDS.search(text) is not None
    found = text
    for sign in _SIGNS:
        beside_space = f'{sign} ' in text or f' {sign}' in text
        found = found.replace(sign, '' if drop_all or beside_space else ' ')
    words = [_DIGITS.get(word, word) for word in _PERIOD.sub('', found).lower().split()]
    return ' '.join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, given: Sequence[str]) -> float:
    """How right an answer is: min(n / 3, 1), n of nine people gave it, the mean over leaving out each of ten.

    Of fewer than four people, all others must have given it; of one, this one.

    Args:
        answer: of the model.
        given: answers of people.
    """
    found, known = normalize_answer(answer), Counter(map(normalize_answer, given))
    same, others = known[found], len(given) - 1
    if others == 0:
        return float(same)
    needed = min(_NEEDED, others)
    with_one_less = min((same - 1) / needed, 1.0) if same else 0.0
    return (same * with_one_less + (len(given) - same) * min(same / needed, 1.0)) / len(given)


@EVALUATIONS.register_module()
class AnswerAccuracy:
    """Accuracy of the answers of a model, see ``vqa_accuracy``.

    Args:
        dataset: items with ``images`` and ``question(index)``, such as ``VqaQuestions``; or its config.
        by: 'generation', or 'ranking': the answer is chosen from ``rules.choices``, by default from the
            answers of the dataset.
        rules: how answers are found, ``AnswerRules`` or their dict.
        most_choices: number of the most frequent answers of the dataset; 3128 in the release of BLIP, of its
            training set.
        batch_size: questions per batch.
        name: prefix of the names of the results.
        num_workers: processes that read images.

    Raises:
        InputError: an unknown value of ``by``, choices that are not used, or a dataset without questions.
    """

    whole_model = True

    def __init__(
        self,
        dataset: Any,
        by: By = 'generation',
        rules: AnswerRules | Mapping[str, Any] | None = None,
        most_choices: int = 3128,
        batch_size: int = 16,
        name: str = 'answers',
        num_workers: int = 0,
    ) -> None:
        if by not in get_args(By):
            raise InputError(
                f'by must be one of {", ".join(get_args(By))}, got {by!r}.{nearest(by, get_args(By))}'
            )
        self.dataset: Any = build(dataset, DATASETS)
        if not hasattr(self.dataset, 'question'):
            raise InputError(f'{name}: the dataset has no question(index)')
        given = rules if isinstance(rules, AnswerRules) else AnswerRules(**(rules or {}))
        if by == 'generation' and given.choices:
            raise InputError(f"{name}: choices are for by='ranking'; remove them")
        if by == 'ranking' and not given.choices:
            given = replace(given, choices=common_answers(self.dataset, most_choices))
        self.rules, self.batch_size, self.name, self.num_workers = given, batch_size, name, num_workers

    def check(self, model: Any) -> None:
        """Refuse a model that does not answer questions, before a training.

        Raises:
            InputError: as ``tasks.answering.AnswerModel.check_answers``.
        """
        if not hasattr(model, 'check_answers'):
            raise InputError(f'{type(model).__name__} does not answer questions: use one that does')
        model.check_answers(self.rules)

    def __call__(self, model: Any) -> dict[str, float]:
        """Ask a model all questions; its mode is restored.

        Returns:
            with prefix ``NAME/``: 'accuracy', and for several kinds of questions 'accuracy/KIND';
            'most_frequent', the accuracy of the most frequent answer to each kind; and the number of
            'questions', and of 'unreadable' ones if there are any.

        Raises:
            InputError: a model that does not answer questions, or no image that can be read.
        """
        self.check(model)
        scores: dict[str, list[float]] = defaultdict(list)
        with evaluating(model):
            for images, places in readable_batches(
                model, self.dataset, self.batch_size, self.num_workers, self.name
            ):
                self._score(model, images, places, scores)
        counted = [score for some in scores.values() for score in some]
        if not counted:
            raise InputError(f'{self.name}: the dataset has no images that can be read')
        report = {'accuracy': fmean(counted), 'most_frequent': self._most_frequent()}
        report |= {f'accuracy/{kind}': fmean(some) for kind, some in scores.items() if len(scores) > 1}
        report['questions'] = len(counted)
        lost = len(self.dataset) - len(counted)
        report |= {'unreadable': lost} if lost else {}
        return {f'{self.name}/{key}': value for key, value in report.items()}

    def _score(
        self, model: Any, images: Tensor, places: Sequence[int], scores: dict[str, list[float]]
    ) -> None:
        """Add the scores of a batch (B, 3, S, S), normalized, by kind."""
        asked = [self.dataset.question(place) for place in places]
        found = model.answer_each(images, [one.text for one in asked], self.rules)
        for answer, question in zip(found, asked, strict=True):
            scores[_plain(question.kind)].append(vqa_accuracy(answer.text, question.answers))

    def _most_frequent(self) -> float:
        questions = [self.dataset.question(index) for index in range(len(self.dataset))]
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for one in questions:
            counts[one.kind].update(map(normalize_answer, one.answers))
        best = {kind: some.most_common(1)[0][0] for kind, some in counts.items()}
        return fmean(vqa_accuracy(best[one.kind], one.answers) for one in questions)


def on_own_data(model: Any, own: OwnData) -> dict[str, float]:
    """Metrics of ``AnswerAccuracy``, of generated answers and of those that are chosen from the data's."""
    own.without_classes()
    data = own.build()
    report = AnswerAccuracy(data)(model)
    if len(common_answers(data, 2)) > 1:
        ranked = AnswerAccuracy(data, 'ranking', name='ranking')(model)
        report |= {name: value for name, value in ranked.items() if name.startswith('ranking/accuracy')}
    return report


def _plain(kind: str) -> str:
    """The name of a kind in the name of a metric, which '/' divides."""
    return kind.replace('/', '_').replace(' ', '_') or 'other'
