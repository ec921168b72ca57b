"""The config of LSeg on masks of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipdense.data.starting import Start

_IMPORTS = (
    'from torch.optim import AdamW',
    'from clipdense.data.segmentation.crops import SegmentationCrops',
    'from clipdense.engine.hooks import VocabularyHook',
    'from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine',
    'from clipdense.evaluation.segmentation import MeanIoU',
    'from clipdense.methods.lseg.training import ScratchFaster',
)
_LONG, _CROP, _SHORT = 720, 352, 540  # pixels, as in lseg_camvid_embedded


def lseg(start: Start) -> str:
    """The text of the config.

    A convolutional tower of timm, such as that of the embedded model, is frozen and classifies what has no
    masks; others are fine-tuned.
    """
    start.need('masks')
    names = list(start.data.vocabulary.class_names)
    long, short = start.side
    batch = start.batch_size(4)
    steps = start.steps(batch, epochs=8, most=2000)
    long_side = max(64, min(_LONG, long))
    crop = max(32, min(_CROP, long_side) // 32 * 32)
    frozen = getattr(start.clip.image, 'kind', '') == 'timm'
    kind = 'EnsembleLSeg' if frozen else 'LSeg'
    model = f"    type={kind},\n    clip='{{{{weights}}}}',"
    if frozen:
        model += f'  # its image tower is frozen, and classifies what has no masks\n    seen={names!r},'
    body = f"""
weights = {start.weights!r}  # 'embedded' needs no download; or a file or name of a CLIP

model = dict(
{model}
    width=64,
    loss=dict(balance=0.5),
    statistics={_statistics(start)!r},
    slide=dict(short_side={max(32, min(_SHORT, short))}),
)
train_dataloader = dict(
    batch_size={batch},
    num_workers=0,
    dataset=dict(
        type=SegmentationCrops,
        dataset={start.layout.train.text()},
        size={crop},
        long_side={long_side},
        scale=(0.75, 1.35),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    dataset={start.validation.text()},
)
val_cfg = dict()
val_evaluator = dict(type=MeanIoU)
test_dataloader, test_cfg, test_evaluator = val_dataloader, val_cfg, val_evaluator
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    constructor=ScratchFaster,
    precision='auto',
    optimizer=dict(type=AdamW, lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05),
    paramwise_cfg=dict(scratch_lr=1.0),
)
train_cfg = dict(max_steps={steps}, val_interval={steps})
param_scheduler = dict(type=WarmupCosine, warmup={max(1, steps // 10)})
custom_hooks = dict(vocabulary=dict(type=VocabularyHook))
"""
    imports = [
        *_IMPORTS,
        f'from clipdense.methods.lseg.{"ensemble" if frozen else "segmenter"} import {kind}',
    ]
    shown = ', '.join(names[:4])
    use = [
        f'clipdense test {start.file} {start.work_dir}/lseg.safetensors',
        f"clipdense segment PHOTO -c '{shown}' --weights {start.work_dir}/lseg.safetensors",
    ]
    return start.page('LSeg on masks of your own.', use, imports, ['_base_.default_runtime'], body)


def _statistics(start: Start) -> str:
    """The name of the normalization of the weights."""
    from clipdense.clip.preprocess import STATISTICS

    own = start.clip.preprocess
    near = [
        name
        for name, (mean, std) in STATISTICS.items()
        if max(abs(a - b) for a, b in zip((*mean, *std), (*own.mean, *own.std), strict=True)) < 0.01
    ]
    return near[0] if near else 'openai'
