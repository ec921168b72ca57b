"""Configs of CoOp, CoCoOp and MaPLe on class folders of one's own."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from clipdense.clip.sizes import TextSize
from clipdense.utils.errors import InputError

if TYPE_CHECKING:
    from clipdense.data.starting import Start

_SHOTS = 16
_DEPTH = 9  # of MaPLe, as published


def coop(start: Start) -> str:
    """The text of the config of CoOp."""
    return _config(start, 'coop', 'CoOp')


def cocoop(start: Start) -> str:
    """The text of the config of CoCoOp."""
    return _config(start, 'cocoop', 'CoCoOp')


def maple(start: Start) -> str:
    """The text of the config of MaPLe."""
    return _config(start, 'maple', 'MaPLe')


def _config(start: Start, name: str, shown: str) -> str:
    start.need('images')
    if not isinstance(start.clip.text.size, TextSize):
        raise InputError(
            f"{shown} needs a CLIP with a text tower of CLIP's own kind, which {start.weights} is not: pass "
            '--weights with a name such as ViT-B-16/openai, or a file'
        )
    shots = min(_SHOTS, max(Counter(start.data.labels).values()))
    count = sum(min(shots, number) for number in Counter(start.data.labels).values())
    body = f"""
data = {start.path!r}
clip = {start.weights!r}  # 'embedded' needs no download; or a file or name of a CLIP
shots = {shots}  # images of each class
image_size = {start.clip.preprocess.image_size}
train_dataloader.update(batch_size={min(32, count)}, num_workers=0)
"""
    if name == 'maple':
        layers = [start.clip.text.size.layers, getattr(start.clip.image.size, 'layers', None)]
        least = min(one for one in layers if isinstance(one, int))
        body += f'depth = {min(_DEPTH, least)}  # blocks of both towers with prompts\n'
    names = ', '.join(start.data.class_names[:4])
    prompts = f'{start.work_dir}/prompts.safetensors'
    use = [f"clipdense classify PHOTO -c '{names}' -w {start.weights} --prompts {prompts}"]
    bases = ['_base_.default_runtime', '_base_.few_shot', f'_base_.few_shot_{name}']
    return start.page(f'{shown} on labeled images of your own.', use, [], bases, body)
