"""``clipdense caption``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.device_names import check_precision
from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import check_outputs

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
from .text_rows import Row, check_ending, write_rows

if TYPE_CHECKING:
    from clipdense.tasks.captioning import Caption, CaptionRules

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
    check_ending(out, 'captions')
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
        rows.append({'image': str(paths[index]), **result.to_dict()})
        return f'{printable(paths[index])}: {result.text or "(no caption)"}'

    try:
        each(paths, predict, finish, 'captioning', out)
    finally:
        if out and rows:
            write_rows(out, rows, 'caption')
