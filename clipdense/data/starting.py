"""What a config for data of one's own is made of; methods write the rest (``Method.starters``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from clipdense.clip.checkpoint import load
from clipdense.utils.errors import InputError
from clipdense.utils.wording import counted

from .layouts import SHARDS, DataLayout, DatasetPart, Kind, image_sizes, recognize

_FEWEST_STEPS = 20


class Start:
    """A first training; a method first says by ``need`` what it learns from.

    Args:
        path: of the data.
        weights: CLIP that it starts from; None for a method that needs none (``Method.starts_alone``).
        file: the config that is written.
    """

    layout: DataLayout

    def __init__(self, path: str, weights: str | None, file: Path) -> None:
        self.path, self.weights, self.file = path, weights, file

    def need(self, kind: Kind) -> None:
        """Look at the data.

        Raises:
            InputError: it has nothing of this kind, not even two samples (of shards the first two are read),
                or no image that can be read.
        """
        self.layout = recognize(self.path, kind)
        count = len(list(islice(self.data, 2))) if self.is_stream else self.count
        if count == 0 or (count == 1 and kind == 'captions'):
            raise InputError(f'{self.path} has {counted(count, "usable sample")}; more are needed')
        if kind == 'captions' and not self.is_stream:
            try:
                self.data[0]  # the first image that can be read
            except InputError as error:
                raise InputError(f'{self.path}: {error}') from error

    @property
    def count(self) -> int | None:
        """Number of samples; None for shards, which are not counted."""
        return None if self.is_stream or not hasattr(type(self.data), '__len__') else len(self.data)

    @property
    def is_stream(self) -> bool:
        """Whether the data are shards."""
        return self.layout.layout == SHARDS

    @cached_property
    def data(self) -> Any:
        """The dataset of the training, without transforms."""
        return self.layout.train.build(**({'batch_size': 1, 'shuffle': 0} if self.is_stream else {}))

    @cached_property
    def clip(self) -> Any:
        """The CLIP.

        Raises:
            InputError: there is none.
        """
        if self.weights is None:
            raise InputError('a CLIP to start from is needed: give --weights')
        return load(self.weights)

    @property
    def work_dir(self) -> str:
        """Where ``clipdense train`` writes by default."""
        return f'work_dirs/{self.file.stem}'

    @property
    def validation(self) -> DatasetPart:
        """What is validated with: the images of the training, if there are no others."""
        return self.layout.val or self.layout.train

    @cached_property
    def side(self) -> tuple[int, int]:
        """Median longer and shorter side of the images, in pixels."""
        files = [Path(getattr(one, 'path', one)) for one in getattr(self.data, 'images', [])]
        sizes = image_sizes(files)
        if not len(sizes):
            raise InputError(f'no image of {self.path} can be read')
        longer, shorter = (sorted(side.tolist())[len(sizes) // 2] for side in (sizes.max(1), sizes.min(1)))
        return longer, shorter

    def batch_size(self, most: int) -> int:
        """At most this, and at most the number of samples."""
        return max(1, min(most, self.count or most))

    def steps(self, batch_size: int, epochs: int, most: int) -> int:
        """Steps of a number of epochs, within limits for a first run."""
        whole = most if self.count is None else epochs * -(-self.count // batch_size)
        return max(_FEWEST_STEPS, min(most, whole))

    def page(
        self, about: str, use: Sequence[str], imports: Sequence[str], bases: Sequence[str], body: str
    ) -> str:
        """The text of the config.

        Args:
            about: the first sentence.
            use: commands after the training.
            imports: lines.
            bases: included configs whose entries it begins with.
            body: the entries.
        """
        commands = '\n'.join(f'    {line}' for line in (f'clipdense train {self.file}', *use))
        samples = '' if self.count is None else f', {counted(self.count, "sample")}'
        facts = f'Data: {self.path} ({self.layout.layout}{samples}).'
        if self.layout.val is None and self.layout.kind != 'captions':
            facts += '\nThere is no data for validation: scores are those of the training data.'
        known = sorted({*imports, self.layout.train.import_line, self.validation.import_line})
        notes = 'Steps and learning rate are starting points, not measured settings.'
        head = '\n\n'.join([about, commands, f'{facts}\n{notes}']).replace('"""', "'''")
        read = [f'    from clipdense.configs.{one} import *' for one in bases]
        lines = [
            'from mmengine.config import read_base',
            *known,
            '',
            'with read_base():',
            *read,
            '',
            body.strip(),
        ]
        return f'r"""{head}\n"""\n\n' + '\n'.join(lines) + '\n'
