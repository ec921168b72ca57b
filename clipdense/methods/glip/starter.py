"""The config of GLIP on boxes of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipdense.data.starting import Start

_LONG = 640  # pixels


def glip(start: Start) -> str:
    """The text of the config: a small detector from scratch, which reads names with the CLIP's text tower."""
    start.need('boxes')
    long, short = start.side
    factor = min(1.0, _LONG / long)
    scale = (round(long * factor), round(short * factor))
    batch = start.batch_size(4)
    steps = start.steps(batch, epochs=20, most=6000)
    resize = f'dict(type=Resize, scale={scale}, keep_ratio=True)'
    names = list(start.data.vocabulary.class_names)
    train = start.layout.train.text(
        training='True', transforms=f'[{resize}, dict(type=RandomFlip, prob=0.5)]'
    )
    body = f"""
data_root = None  # of the scenes
weights = {start.weights!r}  # CLIP whose text tower reads the class names

model.merge(
    dict(
        clip='{{{{weights}}}}',
        head=dict(size=dict(anchor_scale={4.0 if max(scale) <= 160 else 8.0})),
        prompts=dict(negatives=None),  # all names, as many as fit
    )
)
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    dataset={train},
)
test_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    dataset={start.validation.text(transforms=f'[{resize}]')},
)
train_cfg = dict(max_steps={steps})
param_scheduler = dict(type=WarmupCosine, warmup={max(1, steps // 10)})
"""
    imports = [
        'from clipdense.data.detection.transforms import RandomFlip, Resize',
        'from clipdense.engine.optimizer import WarmupCosine',
    ]
    use = [
        f'clipdense test {start.file} {start.work_dir}/glip.safetensors',
        f"clipdense detect PHOTO -c '{', '.join(names[:4])}' --weights {start.work_dir}/glip.safetensors",
    ]
    bases = ['_base_.default_runtime', '_base_.glip_scenes']
    return start.page('A detector that reads class names, on boxes of your own.', use, imports, bases, body)
