"""``clipdense pseudo-label``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdense.utils.command_options import Device, JobPart, MaxBadFraction
from clipdense.utils.device_names import check_precision
from clipdense.utils.files import check_output_folder

from .caption_shards import tell_damaged
from .early import check_device, check_weights
from .options import Captions, Precision, grouped

if TYPE_CHECKING:
    from clipdense.inference.pseudo_labels import PseudoLabelRules


@dataclass(frozen=True)
class KeptBoxes:
    """Which boxes are kept."""

    score_threshold: Annotated[float, typer.Option(min=0, max=1, help='Minimum score of a box.')] = 0.5
    nms: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help='Keep the better of two boxes of different phrases that overlap by this IoU.'
        ),
    ] = None
    min_boxes: Annotated[int, typer.Option(min=1, help='Leave out images with fewer boxes.')] = 1

    def rules(self) -> PseudoLabelRules:
        """The rules."""
        from clipdense.inference.pseudo_labels import PseudoLabelRules

        return PseudoLabelRules(self.score_threshold, self.nms, self.min_boxes)


@dataclass(frozen=True)
class Teacher:
    """The detector that finds the boxes."""

    teacher: Annotated[
        str, typer.Option(help='Weights of a trained detector, such as an exported GLIP.', show_default=False)
    ]
    device: Device = None
    precision: Precision = 'auto'

    def check(self) -> None:
        """Check names and paths before anything heavy is imported.

        Raises:
            InputError: of the first mistake.
        """
        check_weights(self.teacher)
        check_device(self.device)
        check_precision(self.precision)


@grouped
def pseudo_label(
    shards: Annotated[str, typer.Argument(help="Webdataset shards: a folder, or 'data/{000..099}.tar'.")],
    out: Annotated[Path, typer.Argument(help='Output folder; an incomplete one is completed.')],
    teacher: Teacher,
    kept: KeptBoxes,
    captions: Captions = 'txt',
    batch: Annotated[int, typer.Option(min=1, help='Images that the teacher reads at once.')] = 8,
    part: JobPart = None,
    max_bad_fraction: MaxBadFraction = 0.01,
) -> None:
    """Find boxes for the noun phrases of captions with a trained detector, as training data for another.

    Writes `images/` and `annotations.json`, which `GroundingDetection` reads. Run it again after an
    interruption.

    Example: `clipdense pseudo-label data/cc3m data/cc3m_boxes --teacher glip.safetensors`
    """
    from clipdense.utils.jobs import Part

    own = Part.parse(part)
    teacher.check()
    check_output_folder(out)
    from clipdense.data.image_text.shard_files import list_shards
    from clipdense.inference.detector import Detector
    from clipdense.inference.pseudo_labels import pseudo_label as run

    list_shards(shards)
    rules = kept.rules()
    detector = Detector.from_pretrained(
        teacher.teacher,
        device=teacher.device,
        precision=teacher.precision,  # type: ignore[arg-type]  # the detector checks it
    )
    report = run(
        shards, out, detector, rules, captions, own, batch_size=batch, max_bad_fraction=max_bad_fraction
    )
    if report is None:
        print(f'{out}: part {own} is done; the last part writes the annotations')
        return
    print(f'{out}: ' + '\n'.join(report.lines()))
    tell_damaged(out)
