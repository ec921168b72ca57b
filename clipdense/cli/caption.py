"""``clipdense caption``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipdense.utils.device_names import check_precision
from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import atomic_write, check_outputs

from .early import check_choice, check_device, check_weights
from .images import each
from .options import (
    BatchSize,
    Device,
    ImageArguments,
    Overwrite,
    Precision,
    grouped,
    tell_precision,
)

if TYPE_CHECKING:
    from clipdense.tasks.captioning import Caption, CaptionRules

Row = tuple[str, 'Caption']
_SEARCHES = ('beam', 'greedy', 'nucleus')


@dataclass(frozen=True)
class CaptionModelArguments:
    """The model that describes images."""

    weights: Annotated[
        str,
        typer.Option(
            '--weights',
            '-w',
            help="A file or folder of a captioning model, or 'Salesforce/blip-image-captioning-base'.",
            show_default=False,
        ),
    ]
    device: Device = None
    precision: Precision = 'auto'

    def check(self) -> None:
        """Check names and paths before anything heavy is imported.

        Raises:
            InputError: of the first mistake.
        """
        check_weights(self.weights)
        check_device(self.device)
        check_precision(self.precision)


@dataclass(frozen=True)
class SearchArguments:
    """``CaptionRules`` on the command line."""

    search: Annotated[
        str, typer.Option(help='beam, greedy, or nucleus: draws tokens, for captions of more variety.')
    ] = 'beam'
    prompt: Annotated[str, typer.Option(help='Beginning of the text, not part of the caption.')] = (
        'a picture of '
    )
    beams: Annotated[int, typer.Option(min=1, help='Candidates of the beam search.')] = 3
    max_length: Annotated[
        int | None,
        typer.Option(min=2, help='Most tokens, the prompt included [default: 20; nucleus: 30].'),
    ] = None
    min_length: Annotated[
        int | None,
        typer.Option(min=0, help='Fewest tokens, the prompt included [default: 5; nucleus: 10].'),
    ] = None
    repetition_penalty: Annotated[
        float | None, typer.Option(help='Above 1: fewer repeated words [default: 1; nucleus: 1.1].')
    ] = None
    top_p: Annotated[
        float, typer.Option(help='nucleus draws from the fewest tokens with this probability together.')
    ] = 0.9
    seed: Annotated[int, typer.Option(min=0, help='Of nucleus.')] = 0

    def rules(self) -> CaptionRules:
        """The rules.

        Raises:
            InputError: a value out of range.
        """
        from clipdense.tasks.captioning import CaptionRules

        check_choice(self.search, _SEARCHES, '--search')
        return CaptionRules(
            self.search,  # type: ignore[arg-type]
            self.prompt,
            self.beams,
            self.max_length,
            self.min_length,
            self.repetition_penalty,
            self.top_p,
            seed=self.seed,
        )


@grouped
def caption(
    images: ImageArguments,
    model: CaptionModelArguments,
    search: SearchArguments,
    out: Annotated[
        Path | None,
        typer.Option('--out', help='File of the captions: .csv, .tsv, .json, .jsonl, or .txt.'),
    ] = None,
    batch_size: BatchSize = 'auto',
    overwrite: Overwrite = False,
) -> None:
    """Describe images: prints a caption of each, and writes them with `--out`.

    Example: `clipdense caption photos/ --weights Salesforce/blip-image-captioning-base --out captions.csv`
    """
    paths = images.paths()
    rules = search.rules()
    model.check()
    if out is not None and out.suffix.lower() not in _WRITERS:
        raise InputError(f'--out {out}: captions are written as {", ".join(_WRITERS)}')
    check_outputs([out] if out else [], overwrite, [*paths, model.weights])
    from clipdense.inference.captioner import Captioner

    captioner = Captioner.from_pretrained(
        model.weights,
        rules,
        device=model.device,
        precision=model.precision,  # type: ignore[arg-type]  # the captioner checks it
    )
    tell_precision(captioner.precision)
    rows: list[Row] = []

    def predict(failed: Callable[[int, InputError], None]) -> Iterator[tuple[int, Caption]]:
        return captioner.stream(paths, batch_size=batch_size, on_error=failed, max_pixels=images.max_pixels)

    def finish(index: int, result: Caption) -> str:
        rows.append((str(paths[index]), result))
        return f'{printable(paths[index])}: {result.text or "(no caption)"}'

    try:
        each(paths, predict, finish, 'captioning', out)
    finally:
        if out and rows:
            with atomic_write(out) as file:
                file.write(_WRITERS[out.suffix.lower()](rows).encode('utf-8', 'backslashreplace'))


def _table(rows: Sequence[Row], separator: str = ',') -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator='\n')
    writer.writerow(('image', 'caption', 'score'))
    writer.writerows((image, found.text, f'{found.score:.6f}') for image, found in rows)
    return text.getvalue()


def _facts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [{'image': image, **found.to_dict()} for image, found in rows]


_WRITERS: dict[str, Callable[[Sequence[Row]], str]] = {
    '.csv': _table,
    '.tsv': lambda rows: _table(rows, '\t'),
    '.json': lambda rows: json.dumps(_facts(rows), ensure_ascii=False, indent=1) + '\n',
    '.jsonl': lambda rows: ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in _facts(rows)),
    '.txt': lambda rows: ''.join(f'{found.text}\n' for _, found in rows),
}
