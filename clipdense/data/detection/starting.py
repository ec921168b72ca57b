"""What a config of a detector for boxes of one's own is made of, see ``data.starting``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipdense.data.starting import Start

_LONG = 640  # pixels
_IMPORTS = (
    'from clipdense.data.detection.transforms import RandomFlip, Resize',
    'from clipdense.engine.optimizer import WarmupCosine',
)


class BoxTraining:
    """A first training of a small detector.

    Args:
        start: the data and the weights.
        epochs, most: its length, in epochs and at most in steps.

    Attributes:
        scale: longer and shorter side of the resized images, in pixels.

    Raises:
        InputError: data without boxes, or without a sample.
    """

    def __init__(self, start: Start, epochs: int, most: int) -> None:
        start.need('boxes')
        self.start = start
        long, short = start.side
        factor = min(1.0, _LONG / long)
        self.scale = (round(long * factor), round(short * factor))
        self.batch = start.batch_size(4)
        self.steps = start.steps(self.batch, epochs, most)

    @property
    def resize(self) -> str:
        """The transform of test images."""
        return f'dict(type=Resize, scale={self.scale}, keep_ratio=True)'

    def page(self, method: str, about: str, model: str, more: str = '', imports: Sequence[str] = ()) -> str:
        """The text of the config.

        Args:
            method: its name; its small detector is ``_base_/METHOD_scenes.py``.
            about: the first sentence.
            model: the entries of the model.
            more: entries after those of data and length.
            imports: lines that ``model`` and ``more`` need.
        """
        start = self.start
        transforms = f'[{self.resize}, dict(type=RandomFlip, prob=0.5)]'
        body = f"""
{model.strip()}
train_dataloader = dict(
    batch_size={self.batch},
    num_workers=0,
    dataset={start.layout.train.text(training='True', transforms=transforms)},
)
test_dataloader = dict(
    batch_size={self.batch},
    num_workers=0,
    dataset={start.validation.text(transforms=f'[{self.resize}]')},
)
train_cfg = dict(max_steps={self.steps})
param_scheduler = dict(type=WarmupCosine, warmup={max(1, self.steps // 10)})
{more.strip()}
"""
        names = ', '.join(list(start.data.vocabulary.class_names)[:4])
        result = f'{start.work_dir}/{method}.safetensors'
        use = [
            f'clipdense test {start.file} {result}',
            f"clipdense detect PHOTO -c '{names}' --weights {result}",
        ]
        bases = ['_base_.default_runtime', f'_base_.{method}_scenes']
        return start.page(about, use, [*_IMPORTS, *imports], bases, body)
