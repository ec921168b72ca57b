"""``clipdense caption``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.command_options import JobPart, MaxBadFraction
from clipdense.utils.device_names import check_precision
from clipdense.utils.errors import InputError, printable
from clipdense.utils.files import check_outputs
from clipdense.utils.jobs import Part

from .caption_shards import caption_shards, shards_and_folder
from .early import check_choice, check_device, check_weights
from .images import each
from .options import (
    Device,
    ImageArguments,
    Overwrite,
    Precision,
    TextBatchSize,
    grouped,
    tell_precision,
)
from .text_rows import Row, check_ending, write_rows

if TYPE_CHECKING:
    from clipdense.inference.captioner import Captioner
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
            help='A file or folder of a captioning model, or a name such as '
            "'Salesforce/blip-image-captioning-base'; to answer questions 'Salesforce/blip-vqa-base'.",
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

    def captioner(self, rules: CaptionRules) -> Captioner:
        """The model."""
        from clipdense.inference.captioner import Captioner

        captioner = Captioner.from_pretrained(
            self.weights,
            rules,
            device=self.device,
            precision=self.precision,  # type: ignore[arg-type]  # the captioner checks it
        )
        tell_precision(captioner.precision)
        return captioner


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
    batch_size: TextBatchSize = 'auto',
    part: JobPart = None,
    max_bad_fraction: MaxBadFraction = 0.01,
    overwrite: Overwrite = False,
) -> None:
    """Describe images: prints a caption of each, and writes them with `--out`.

    With webdataset shards and an output folder, `clipdense caption SHARDS OUT`, the shards are copied with a
    caption for each image, in `synthetic.json`.  Run it again after an interruption.

    Example: `clipdense caption photos/ --weights Salesforce/blip-image-captioning-base --out captions.csv`
    """
    own = Part.parse(part)
    asked = shards_and_folder(images.images)
    if asked is None and part is not None:
        raise InputError('--part is for shards: clipdense caption SHARDS OUT --part I/N')
    if asked is not None and out is not None:
        raise InputError(f'--out is for captions of images; the output folder of shards is {asked[1]}')
    paths = images.paths() if asked is None else []
    rules = search.rules()
    model.check()
    if asked is not None:
        caption_shards(*asked, lambda: model.captioner(rules), own, batch_size, overwrite, max_bad_fraction)
        return
    check_ending(out, 'captions')
    check_outputs([out] if out else [], overwrite, [*paths, model.weights])
    captioner = model.captioner(rules)
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
