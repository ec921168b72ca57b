"""The config of ViLD on boxes of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipdense.data.starting import Start

_LONG = 640  # pixels


def vild(start: Start) -> str:
    """The text of the config: a small detector from scratch, which learns from names alone."""
    start.need('boxes')
    long, short = start.side
    factor = min(1.0, _LONG / long)
    scale = (round(long * factor), round(short * factor))
    batch = start.batch_size(4)
    steps = start.steps(batch, epochs=10, most=4000)
    resize = f'dict(type=Resize, scale={scale}, keep_ratio=True)'
    names = list(start.data.vocabulary.class_names)
    train = start.layout.train.text(
        training='True', transforms=f'[{resize}, dict(type=RandomFlip, prob=0.5)]'
    )
    body = f"""
weights = {start.weights!r}  # CLIP whose text tower embeds the class names

model.merge(
    dict(
        clip='{{{{weights}}}}',
        data_preprocessor=dict(pad_size_divisor=32),
        rpn_head=dict(anchor_generator=dict(scales=[3, 6], ratios=[0.5, 1.0, 2.0])),
        roi_head=dict(bbox_head=dict(variant='text', embed_dim={int(start.clip.embed_dim)})),
    )
)
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    dataset={train},
)
proposal_dataset = {start.layout.train.text(transforms=f'[{resize}]')}
test_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    dataset={start.validation.text(transforms=f'[{resize}]')},
)
train_cfg = dict(max_steps={steps})
param_scheduler = dict(type=WarmupCosine, warmup={max(1, steps // 10)})
custom_hooks = dict(
    vocabulary=dict(type=VocabularyHook, embedder=dict(type=PromptEnsemble, templates='vild'))
)
"""
    imports = [
        'from clipdense.clip.class_embeddings import PromptEnsemble',
        'from clipdense.data.detection.transforms import RandomFlip, Resize',
        'from clipdense.engine.hooks import VocabularyHook',
        'from clipdense.engine.optimizer import WarmupCosine',
    ]
    use = [
        f'clipdense test {start.file} {start.work_dir}/vild.safetensors',
        f"clipdense detect PHOTO -c '{', '.join(names[:4])}' --weights {start.work_dir}/vild.safetensors",
    ]
    bases = ['_base_.default_runtime', '_base_.vild_scenes']
    return start.page('A detector on boxes of your own.', use, imports, bases, body)
