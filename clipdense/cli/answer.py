"""``clipdense answer``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import check_outputs

from .caption import CaptionModelArguments
from .early import check_files
from .images import each
from .options import ImageArguments, Overwrite, TextBatchSize, grouped, tell_precision
from .text_rows import Row, check_ending, write_rows

if TYPE_CHECKING:
    from clipdense.tasks.answering import Answer, AnswerRules


@dataclass(frozen=True)
class AnswerArguments:
    """Questions, and ``AnswerRules`` on the command line."""

    question: Annotated[
        list[str],
        typer.Option('--question', '-q', help='Asked of each image; may be repeated.', show_default=False),
    ]
    choices: Annotated[
        str | None, typer.Option(help="Answers to choose from, separated by commas: 'yes, no'.")
    ] = None
    choice_file: Annotated[
        Path | None, typer.Option(help='A text file with a choice in each line, instead of --choices.')
    ] = None
    beams: Annotated[int, typer.Option(min=1, help='Candidates of the beam search.')] = 3
    max_length: Annotated[int, typer.Option(min=2, help='Most tokens of a generated answer.')] = 10

    def rules(self) -> AnswerRules:
        """The rules.

        Raises:
            InputError: choices twice, or a value out of range.
        """
        if self.choices is not None and self.choice_file is not None:
            raise InputError('--choices and --choice-file cannot be combined: remove one')
        check_files(self.choice_file)
        from clipdense.tasks.answering import AnswerRules, checked_questions

        checked_questions(self.question)
        return AnswerRules(self._choices(), beams=self.beams, max_length=self.max_length)

    def _choices(self) -> list[str]:
        if self.choices is None and self.choice_file is None:
            return []
        from clipdense.vocab.class_files import lines_of, read_text, split_names, unescape

        if self.choice_file is not None:
            found = [line.strip() for line in lines_of(read_text(self.choice_file)) if line.strip()]
        else:
            found = [unescape(choice) for choice in split_names(self.choices or '')]
        if not found:
            raise InputError(f'{self.choice_file or "--choices"} has no choices')
        return found


@grouped
def answer(
    images: ImageArguments,
    asked: AnswerArguments,
    model: CaptionModelArguments,
    out: Annotated[
        Path | None,
        typer.Option('--out', help='File of the answers: .csv, .tsv, .json, .jsonl, or .txt.'),
    ] = None,
    batch_size: TextBatchSize = 'auto',
    overwrite: Overwrite = False,
) -> None:
    """Answer questions about images: prints the answers, and writes them with `--out`.

    Example: `clipdense answer photos/ -q 'how many dogs are there?' --weights Salesforce/blip-vqa-base`
    """
    paths = images.paths()
    rules = asked.rules()
    model.check()
    check_ending(out, 'answers')
    check_outputs([out] if out else [], overwrite, [*paths, model.weights, asked.choice_file])
    from clipdense.inference.answerer import Answerer

    answerer = Answerer.from_pretrained(
        model.weights,
        rules,
        device=model.device,
        precision=model.precision,  # type: ignore[arg-type]  # the answerer checks it
    )
    tell_precision(answerer.precision)
    rows: list[Row] = []

    def predict(failed: Callable[[int, InputError], None]) -> Iterator[tuple[int, list[Answer]]]:
        return answerer.stream(
            paths, asked.question, batch_size=batch_size, on_error=failed, max_pixels=images.max_pixels
        )

    def finish(index: int, answers: list[Answer]) -> str:
        rows.extend({'image': str(paths[index]), **one.to_dict()} for one in answers)
        where, several = printable(paths[index]), len(answers) > 1
        return '\n'.join(
            f'{where}: {printable(one.question) + " " if several else ""}{one.text or "(no answer)"}'
            for one in answers
        )

    try:
        each(paths, predict, finish, 'answering', out)
    finally:
        if out and rows:
            write_rows(out, rows, 'answer')
