"""Captions by a model for the images of shards: copies with one more member, in parts, see ``utils.jobs``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

from clipdense.data.faults import FaultBudget
from clipdense.data.image_text.shard_copies import Extras, copy_shard, each_shard, sources, with_copies
from clipdense.data.image_text.shard_files import SYNTHETIC_MEMBER, RawPair, list_shards
from clipdense.tasks.captioning import Caption, CaptionRules
from clipdense.utils.errors import InputError
from clipdense.utils.files import atomic_write, writable_folder
from clipdense.utils.image_io import read_image
from clipdense.utils.jobs import Job, Part
from clipdense.utils.json_files import read_json
from clipdense.utils.wording import counted


class Describer(Protocol):
    """A model that describes images, such as ``inference.captioner.Captioner``.

    Attributes:
        rules: how captions are generated.
    """

    rules: CaptionRules

    @property
    def digest(self) -> str:
        """Differs for weights with other captions."""

    def stream(
        self,
        images: Iterable[Any],
        *,
        batch_size: int | Literal['auto'] = 'auto',
        on_error: Any = 'raise',
    ) -> Iterator[tuple[int, Caption]]:
        """The number of an image, and its caption."""


@dataclass(frozen=True)
class CaptionReport:
    """How many images there were, have a caption, and have an empty one; words and scores of all captions."""

    images: int = 0
    captions: int = 0
    empty: int = 0
    words: int = 0
    score: float = 0.0

    def __add__(self, other: CaptionReport) -> CaptionReport:
        one, two = asdict(self), asdict(other)
        return CaptionReport(**{name: one[name] + two[name] for name in one})

    def lines(self) -> list[str]:
        """For people."""
        written = self.captions + self.empty
        lines = [f'{self.captions} of {self.images} images have a synthetic caption']
        if self.empty:
            lines.append(f'  {counted(self.empty, "caption")} without words')
        if self.images > written:
            lines.append(f'  {counted(self.images - written, "image")} that could not be read')
        if self.captions:
            words, score = self.words / self.captions, self.score / written
            lines.append(f'  {words:.1f} words and a score of {score:.3f} in the mean')
        return lines


def caption_shards(
    urls: str | Path | Sequence[str | Path],
    folder: str | Path,
    captioner: Describer,
    part: Part | None = None,
    batch_size: int | Literal['auto'] = 'auto',
    max_bad_fraction: float = 0.01,
    overwrite: bool = False,
) -> CaptionReport | None:
    """Copy shards, with a member ``synthetic.json`` for each sample with an image: caption, score and source.

    Other members stay as they are, so trainings read ``caption='txt'`` as before,
    ``'synthetic.json:caption'``, or both.  Shards that an interrupted call has finished are kept.  Draws of
    'nucleus' depend on the seed and on the place of a sample in its shard.

    Args:
        urls: shards, as in ``ImageTextShards``.
        folder: output folder; names are kept.
        captioner: describes the images.
        part: copy only the shards of this part.
        batch_size: images per batch.
        max_bad_fraction: fraction of samples without a readable image, and of damaged shards, above which the
            call fails.
        overwrite: start anew, also in a folder with other files.

    Returns:
        The report, or None while parts are missing.

    Raises:
        InputError: shards that have synthetic captions; missing shards, duplicate names, too many
            bad samples or damaged shards, a full disk, or a folder of another job.
    """
    shards = list_shards(urls)
    pairs = with_copies(shards, folder)
    facts = {**sources(shards), 'captioner': captioner.digest[:16], **asdict(captioner.rules)}
    job = Job(folder, 'caption', facts, part, overwrite)
    records = job.state / 'records'
    faults = FaultBudget('samples', max_bad_fraction)

    def caption(shard: str, path: Path) -> str:
        def decide(samples: Iterator[RawPair]) -> Mapping[str, Extras]:
            before = faults.seen
            found = _captions(samples, captioner, batch_size, faults.lose)
            report = sum(map(_report_of, found.values()), CaptionReport(images=faults.seen - before))
            with atomic_write(records / f'{path.name}.json', 'w') as file:
                json.dump(asdict(report), file)
            return {key: {SYNTHETIC_MEMBER: _member(one)} for key, one in found.items()}

        return copy_shard(shard, path, [], faults, decide, all_samples=True)

    mine = job.part.of(pairs, 'shard')
    with job.running():
        writable_folder(records)
        for _, path in mine if overwrite else ():
            path.unlink(missing_ok=True)
        each_shard(job, mine, 'captioning', caption, max_bad_fraction=max_bad_fraction)
        job.finish({'shards': len(mine)})
    if not job.complete:
        return None
    done = [records / f'{path.name}.json' for _, path in pairs if path.exists()]
    known = [CaptionReport(**read_json(record)) for record in done]
    return sum(known, CaptionReport())


def _captions(
    samples: Iterable[RawPair],
    captioner: Describer,
    batch_size: int | Literal['auto'],
    lose: Callable[[str, str], None],
) -> dict[str, Caption]:
    """The caption of each sample with a readable image, by its key."""
    names: list[str] = []

    def images() -> Iterator[Image.Image]:
        for sample in samples:
            if sample.synthetic:
                raise InputError(
                    f'{sample.name} has a synthetic caption ({SYNTHETIC_MEMBER}): the shards were captioned '
                    'already; give the shards that they were made from'
                )
            try:
                image = read_image(sample.image)
            except (InputError, MemoryError, RecursionError) as error:
                lose('image', f'{sample.name}: {error or type(error).__name__}')
                continue
            names.append(sample.name)
            yield image

    def failed(index: int, error: Exception) -> None:
        lose('image', f'{names[index]}: {error}')

    found = captioner.stream(images(), batch_size=batch_size, on_error=failed)
    return {names[index].partition('/')[2]: caption for index, caption in found}


def _report_of(caption: Caption) -> CaptionReport:
    text = caption.text.strip()
    return CaptionReport(0, int(bool(text)), int(not text), len(text.split()), caption.score)


def _member(caption: Caption) -> bytes:
    return json.dumps({**caption.to_dict(), 'source': 'synthetic'}, ensure_ascii=False).encode()
