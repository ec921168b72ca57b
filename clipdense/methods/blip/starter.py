"""The config of a BLIP on captions of one's own."""

from __future__ import annotations

from dataclasses import asdict
from pprint import pformat
from typing import TYPE_CHECKING, Any

from clipdense.clip.sizes import VitSize

from .sizes import OPENAI, OPENAI_WORDS

if TYPE_CHECKING:
    from clipdense.data.starting import Start

_ALONE = VitSize(224, 16, 384, 12, 6, 1536, 256, activation='gelu', flavour='slip')
_QUEUE = 4096


def blip(start: Start) -> str:
    """The text of the config: pre-training, with the image tower of a CLIP if one is given."""
    start.need('captions')
    batch = max(2, start.batch_size(32))
    steps = start.steps(batch, epochs=20, most=20_000)
    image, eps, side = _image(start)
    text: dict[str, Any] = {
        'width': 384, 'layers': 6, 'num_heads': 6, 'mlp_width': 1536, 'context_length': 40,
        'vocab_size': OPENAI_WORDS, 'ids': asdict(OPENAI),
    }  # fmt: skip
    train = start.layout.train.text(transform=f'dict(type=SquareCrop, size={side})', tokenizer='caption_ids')
    given = '' if start.weights is None else f'\n        image_weights={start.weights!r},  # a CLIP'
    body = f"""
text_size = dict({_arguments(text)})  # CLIP's byte pairs, and two added ids
caption_ids = dict(type=CaptionIds, size=text_size, longest=30)
model = dict(
    type=BlipPretrainer,
    blip=dict(
        type=build_blip,
        size=dict(
            image=dict({_arguments(image)}),
            text=text_size,
            image_eps={eps!r},
        ),{given}
    ),
    queue_size={max(batch, min(_QUEUE, start.count or _QUEUE))},
    ramp_steps={max(1, steps // 10)},
)
train_dataloader = dict(
    batch_size={batch},  # pairs; larger batches learn better where the memory allows
    num_workers=0,
    drop_last=True,
    dataset={train},
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=3e-4, weight_decay=0.05),
    paramwise_cfg=dict(rule='all'),
)
train_cfg = dict(max_steps={steps})
param_scheduler = dict(type=WarmupCosine, warmup={max(1, steps // 10)})
"""
    imports = [
        'from torch.optim import AdamW',
        'from clipdense.data.transforms import SquareCrop',
        'from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine',
        'from clipdense.methods.blip.model import build_blip',
        'from clipdense.methods.blip.pretrainer import BlipPretrainer',
        'from clipdense.methods.blip.tokenizer import CaptionIds',
    ]
    use = [f'clipdense caption PHOTO --weights {start.work_dir}/blip.safetensors']
    about = 'A BLIP on captions of your own: a small one, which needs many captions.'
    return start.page(about, use, imports, ['_base_.default_runtime'], body)


def _image(start: Start) -> tuple[dict[str, Any], float, int]:
    """Size of the image tower, eps of its normalizations, and side of the images."""
    if start.weights is None:
        return asdict(_ALONE), 1e-6, _ALONE.image_size
    tower = start.clip.image
    eps = tower.norm_post.eps if isinstance(tower.size, VitSize) else 1e-6
    return asdict(tower.size), eps, start.clip.preprocess.image_size


def _arguments(values: dict[str, Any]) -> str:
    """``a=1, b='x'``."""
    return ', '.join(f'{name}={pformat(value, width=10**6)}' for name, value in values.items())
