"""``clipdense filter``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.methods import Method, list_methods
from clipdense.utils.command_options import JobPart, MaxBadFraction
from clipdense.utils.errors import InputError
from clipdense.utils.files import check_output_folder

from .caption_shards import tell_damaged
from .early import check_choice, check_device, check_weights
from .options import (
    DEFAULT_WEIGHTS,
    Activation,
    Captions,
    Device,
    Override,
    Weights,
    caption_sources,
    grouped,
    weight_overrides,
)

if TYPE_CHECKING:
    from clipdense.data.image_text.filters import FilterRules, PairScorer


def scorers() -> dict[str, Method]:
    """Each method that scores pairs, by the name that ``--by`` takes."""
    return {name: method for method in list_methods() for name in method.scorers}


_SCORERS = ', '.join(sorted(scorers()))


@dataclass(frozen=True)
class RuleArguments:
    """What a sample needs to be kept."""

    min_size: Annotated[int, typer.Option(min=0, help='Shorter side of the image in pixels.')] = 0
    max_aspect: Annotated[
        float | None, typer.Option(min=1, help='Longer side of the image / shorter side.')
    ] = None
    min_words: Annotated[int, typer.Option(min=0, help='Words of the caption, at least.')] = 0
    max_words: Annotated[int | None, typer.Option(min=1, help='Words of the caption, at most.')] = None
    min_chars: Annotated[int, typer.Option(min=0, help='Characters of the caption, at least.')] = 0
    alphabet: Annotated[
        str | None, typer.Option(help="Of the caption, one or several: 'latin, greek'. 90 % of the letters.")
    ] = None
    unique: Annotated[
        str | None,
        typer.Option(
            help="Keep the first of equal samples: 'image' (the same file), 'caption', 'look' (the same "
            "difference hash), or several: 'image, caption'."
        ),
    ] = None
    by: Annotated[
        str | None, typer.Option(help=f'Score the pairs with --weights: {_SCORERS}.', show_default=False)
    ] = None
    min_score: Annotated[float | None, typer.Option(help='Score of --by, at least [itm: 0.5].')] = None
    min_caption_score: Annotated[
        float | None,
        typer.Option(help='Score that a caption by a model has from `clipdense caption`, at least: -0.5.'),
    ] = None

    def rules(self) -> FilterRules:
        """The rules.

        Raises:
            InputError: none, a minimum score without ``--by``, or an unknown name.
        """
        from clipdense.data.image_text.filters import FilterRules

        check_choice(self.by, scorers(), '--by')
        if self.min_score is not None and self.by is None:
            raise InputError(f'--min-score is the score of a model: add --by {_SCORERS} and --weights')
        rules = FilterRules(
            self.min_size,
            self.max_aspect,
            self.min_words,
            self.max_words,
            self.min_chars,
            _names(self.alphabet),
            _names(self.unique),
            self.min_score,
            self.min_caption_score,
        )
        if not rules and self.by is None:
            raise InputError('nothing to filter by: give a rule, such as --min-size 200 or --unique image')
        return rules


@dataclass(frozen=True)
class ScoringModel:
    """The weights that score pairs."""

    weights: Weights = DEFAULT_WEIGHTS
    activation: Activation = None
    override: Override = None
    device: Device = None

    def check(self) -> None:
        """Check names and paths before anything heavy is imported.

        Raises:
            InputError: of the first mistake.
        """
        check_weights(self.weights)
        check_device(self.device)
        weight_overrides(self.activation, self.override)

    def scorer(self, name: str) -> PairScorer:
        """The scorer of this name."""
        from clipdense.inference.load import load

        model = load(self.weights, self.device, **weight_overrides(self.activation, self.override))
        return scorers()[name].part(name, 'scorers')(model)


@grouped
def filter_shards(
    shards: Annotated[str, typer.Argument(help="Webdataset shards: a folder, or 'data/{000..099}.tar'.")],
    out: Annotated[Path, typer.Argument(help='Output folder; an incomplete one is completed.')],
    asked: RuleArguments,
    model: ScoringModel,
    captions: Captions = 'txt',
    part: JobPart = None,
    max_bad_fraction: MaxBadFraction = 0.01,
) -> None:
    """Copy shards without samples that are too small, repeated, or whose caption does not fit.

    `report.json` has the numbers, `dropped.jsonl` each sample that was dropped and why. Run it again after an
    interruption.

    Example: `clipdense filter data/cc3m data/cc3m_clean --min-size 200 --min-words 3 --unique image`
    """
    from clipdense.utils.jobs import Part

    own, rules = Part.parse(part), asked.rules()
    if asked.by is not None:
        model.check()
    check_output_folder(out)
    from clipdense.data.image_text.filtering import filter_shards as run
    from clipdense.data.image_text.shard_files import list_shards

    list_shards(shards)
    scorer = None if asked.by is None else model.scorer(asked.by)
    report = run(shards, out, rules, scorer, caption_sources(captions), own, max_bad_fraction)
    if report is None:
        print(f'{out}: part {own} is done; the last part removes duplicates and writes the report')
        return
    print(f'{out}: ' + '\n'.join(report.lines()))
    tell_damaged(out)


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip().lower() for name in (text or '').split(',') if name.strip())
