"""Files of questions about images: the layout of VQA v2, and JSON lists as BLIP has them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipdense.data.faults import FaultBudget
from clipdense.registry import DATASETS
from clipdense.utils.errors import InputError
from clipdense.utils.image_files import find_image
from clipdense.utils.json_files import read_json

from .entries import is_file_name, resolve, usable_captions
from .questions import Question, VisualQuestions

_LARGEST = 4_000_000_000  # bytes of a JSON file
COCO_NAME = '{subset}/COCO_{subset}_{id:012d}.jpg'


class _Reader:
    """Checks entries of files, and counts those that cannot be used.

    Args:
        folder: of the images.
        max_bad_fraction: see ``FaultBudget``.
    """

    def __init__(self, folder: str | Path, max_bad_fraction: float) -> None:
        self.folder = Path(folder)
        self.budget = FaultBudget('questions', max_bad_fraction)
        self._there: dict[str, str] = {}  # images of which several questions are asked

    def path(self, name: str, where: str) -> str:
        """Path of an image; '' if it is missing, which is counted."""
        if name not in self._there:
            path = find_image(resolve(name, self.folder, self.folder, where))
            self._there[name] = str(path) if os.path.isfile(path) else ''
        if not self._there[name]:
            self.budget.lose('missing image', f'{where}: {self.folder / name}')
        return self._there[name]

    def question(
        self, text: Any, answers: Any, where: str, weights: Any = None, kind: Any = ''
    ) -> Question | None:
        """The question; None if it cannot be used, which is counted."""
        if not usable_captions([text]):
            self.budget.lose('no question', where)
        elif not isinstance(answers, list) or not all(isinstance(one, str) for one in answers):
            self.budget.lose('answers are not texts', f'{where}: {answers!r:.80}')
        elif not any(usable_captions([one]) for one in answers):
            self.budget.lose('no answer', where)
        elif weights is not None and not _are_weights(weights, len(answers)):
            self.budget.lose(
                'weights are not one number above 0 for each answer', f'{where}: {weights!r:.80}'
            )
        else:
            kept = [place for place, one in enumerate(answers) if usable_captions([one])]
            return Question(
                text.strip(),
                tuple(answers[place].strip() for place in kept),
                () if weights is None else tuple(float(weights[place]) for place in kept),
                kind if isinstance(kind, str) else '',
            )
        return None

    def end(self, files: object, count: int) -> None:
        """Log what was lost.

        Raises:
            InputError: nothing is left.
        """
        if not count:
            last = f'; the last one: {self.budget.last}' if self.budget.last else ''
            raise InputError(f'{files} has no question with an answer and an image in {self.folder}{last}')
        self.budget.summarize([(self.budget.lost, self.budget.seen)], str(files))


@DATASETS.register_module()
class QuestionList(VisualQuestions):
    """JSON lists of questions, as salesforce/BLIP has them.

    An entry has ``image`` (a path), ``question``, ``answer`` or ``answers`` (a text, or a list with one of
    each person), and optionally ``weights`` (one of each answer), ``answer_type`` and ``dataset``.

    Args:
        files: one file or several.
        image_folder: folder that paths are relative to and must stay inside; that of the file by default.
        dataset_weights: factors of the weights of entries by their ``dataset``.
        transform, tokenizer, seed, max_bad_fraction: as in ``VisualQuestions``; entries that cannot be used
            are skipped and counted the same way.

    Raises:
        InputError: a file in another format, a path outside of the folder, or too many bad entries.

    Source: salesforce/BLIP data/vqa_dataset.py; answers of Visual Genome ('vg') have the weight 0.2.
    """

    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        image_folder: str | Path | None = None,
        dataset_weights: Mapping[str, float] | None = None,
        transform: Callable | dict | None = None,
        tokenizer: Any = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        paths = _paths(files)
        factors = {'vg': 0.2} if dataset_weights is None else dict(dataset_weights)
        reader = _Reader(image_folder or paths[0].parent, max_bad_fraction)
        rows = (row for path in paths for row in _listed(path, reader, factors))
        super().__init__(rows, transform, tokenizer, seed, max_bad_fraction)
        reader.end(_named(paths), len(self))


@DATASETS.register_module()
class VqaQuestions(VisualQuestions):
    """Questions and annotations in the layout of VQA v2, with ten answers each.

    Args:
        questions: JSON with ``questions`` (``question_id``, ``image_id``, ``question``) and
            ``data_subtype``; one file or several.
        annotations: JSON with ``annotations`` (``question_id``, ``answers``, and ``answer_type``), one of
            each file of questions.
        image_folder: folder of the images.
        image_name: path of an image in it, with ``{id}`` and ``{subset}``, the ``data_subtype``.
        transform, tokenizer, seed, max_bad_fraction: as in ``VisualQuestions``; questions without annotation
            or image, and annotations of unknown questions, are skipped and counted the same way.

    Raises:
        InputError: files in another format, a question id that occurs twice, or too many bad entries.
    """

    def __init__(
        self,
        questions: str | Path | Sequence[str | Path],
        annotations: str | Path | Sequence[str | Path],
        image_folder: str | Path,
        image_name: str = COCO_NAME,
        transform: Callable | dict | None = None,
        tokenizer: Any = None,
        seed: int = 0,
        max_bad_fraction: float = 0.01,
    ) -> None:
        asked, answered = _paths(questions), _paths(annotations)
        if len(asked) != len(answered):
            raise InputError(
                f'{len(asked)} files of questions need as many of annotations, got {len(answered)}'
            )
        reader = _Reader(image_folder, max_bad_fraction)
        pairs = zip(asked, answered, strict=True)
        rows = (row for pair in pairs for row in _annotated(*pair, reader, image_name))
        super().__init__(rows, transform, tokenizer, seed, max_bad_fraction)
        reader.end(_named(asked), len(self))


def _listed(path: Path, reader: _Reader, factors: Mapping[str, float]) -> Iterator[tuple[str, Question]]:
    content = read_json(path, _LARGEST)
    if not isinstance(content, list):
        raise InputError(f'{path} is not a JSON list of questions')
    seen: set[Any] = set()
    for number, entry in enumerate(content):
        where = f'{path}, entry {number + 1}'
        reader.budget.saw()
        if not isinstance(entry, dict):
            reader.budget.lose('not an object', where)
            continue
        _check_new(entry.get('question_id'), seen, where)
        name = entry.get('image')
        answers = entry.get('answer', entry.get('answers'))
        answers = [answers] if isinstance(answers, str) else answers
        weights, factor = entry.get('weights'), factors.get(str(entry.get('dataset')))
        question = reader.question(entry.get('question'), answers, where, weights, entry.get('answer_type'))
        if question is None:
            continue
        if not isinstance(name, str) or not name.strip() or not is_file_name(name):
            reader.budget.lose('no image', where)
        elif file := reader.path(name.strip(), where):
            yield file, question if factor is None else _scaled(question, factor)


def _annotated(
    asked: Path, answered: Path, reader: _Reader, image_name: str
) -> Iterator[tuple[str, Question]]:
    content = read_json(asked, _LARGEST)
    questions, annotations = _entries(content, 'questions', asked), _by_question(answered)
    subset = content.get('data_subtype', '')
    known: set[Any] = set()
    for number, entry in enumerate(questions):
        where = f'{asked}, questions[{number}]'
        reader.budget.saw()
        key = entry.get('question_id') if isinstance(entry, dict) else None
        image = entry.get('image_id') if isinstance(entry, dict) else None
        if not isinstance(key, int | str) or not isinstance(image, int) or isinstance(image, bool):
            reader.budget.lose("'question_id' or 'image_id' is missing", where)
            continue
        _check_new(key, known, where)
        annotation = annotations.get(key)
        if annotation is None:
            reader.budget.lose('no annotation', f'{where}, question_id {key}')
            continue
        if annotation.get('image_id', image) != image:
            reader.budget.lose('annotation of another image', f'{where}, question_id {key}')
            continue
        answers = annotation.get('answers')
        if isinstance(answers, list):
            answers = [one.get('answer') if isinstance(one, dict) else one for one in answers]
        question = reader.question(entry.get('question'), answers, where, None, annotation.get('answer_type'))
        if question and (file := reader.path(_file_name(image_name, image, subset), where)):
            yield file, question
    for key in annotations.keys() - known:
        reader.budget.lose('annotation of an unknown question', f'{answered}, question_id {key}')


def _by_question(path: Path) -> dict[Any, dict[str, Any]]:
    """The annotation of each question."""
    found: dict[Any, dict[str, Any]] = {}
    for number, entry in enumerate(_entries(read_json(path, _LARGEST), 'annotations', path)):
        key = entry.get('question_id') if isinstance(entry, dict) else None
        if not isinstance(key, int | str):
            raise InputError(f'{path}, annotations[{number}] has no question_id')
        if key in found:
            raise InputError(f'{path}, annotations[{number}]: question_id {key!r} occurs twice')
        found[key] = entry
    return found


def _entries(content: Any, key: str, path: Path) -> list[Any]:
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise InputError(f'{path} is not JSON in the layout of VQA: {key!r} is missing, or not a list')
    return entries


def _check_new(key: Any, seen: set[Any], where: str) -> None:
    if not isinstance(key, int | str):
        return
    if key in seen:
        raise InputError(f'{where}: question_id {key!r} occurs twice; ids must be unique')
    seen.add(key)


def _file_name(template: str, image: int, subset: Any) -> str:
    try:
        return template.format(id=image, subset=subset)
    except (LookupError, ValueError) as error:
        raise InputError(f'image_name must have {{id}} and may have {{subset}}, got {template!r}') from error


def _scaled(question: Question, factor: float) -> Question:
    weights = question.weights or [1 / len(question.answers)] * len(question.answers)
    return Question(
        question.text, question.answers, tuple(factor * weight for weight in weights), question.kind
    )


def _are_weights(weights: Any, count: int) -> bool:
    return (
        isinstance(weights, list)
        and len(weights) == count
        and all(
            isinstance(one, int | float) and not isinstance(one, bool) and 0 < one < math.inf
            for one in weights
        )
    )


def _paths(files: Any) -> list[Path]:
    paths = [Path(one).expanduser() for one in ([files] if isinstance(files, str | Path) else files)]
    if not paths:
        raise InputError('no files of questions')
    return paths


def _named(paths: Sequence[Path]) -> str:
    return ', '.join(map(str, paths))
