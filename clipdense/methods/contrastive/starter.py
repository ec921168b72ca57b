"""The config of a CLIP on captions of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipdense.data.starting import Start


def clip(start: Start) -> str:
    """The text of the config: all weights of a CLIP are fine-tuned."""
    start.need('captions')
    batch = start.batch_size(16)
    steps = start.steps(batch, epochs=10, most=2000)
    size = start.clip.preprocess.image_size
    own = {'transform': f'dict(type=SquareCrop, size={size})'}
    own['tokenizer'] = "dict(type=tokenizer_of, weights='{{weights}}')"
    body = f"""
weights = {start.weights!r}  # 'embedded' needs no download; or a file or name of a CLIP

model = dict(type=ContrastivePretrainer, clip='{{{{weights}}}}')
train_dataloader = dict(
    batch_size={batch},  # pairs; larger batches learn better where the memory allows
    num_workers=0,
    dataset={start.layout.train.text(**own)},
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2),
)
train_cfg = dict(max_steps={steps})
param_scheduler = dict(type=WarmupCosine, warmup={max(1, steps // 10)})
"""
    imports = [
        'from torch.optim import AdamW',
        'from clipdense.data.image_text.datasets import tokenizer_of',
        'from clipdense.data.transforms import SquareCrop',
        'from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine',
        'from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer',
    ]
    use = [f"clipdense classify PHOTO -c 'cat, dog' --weights {start.work_dir}/clip.safetensors"]
    return start.page('A CLIP on captions of your own.', use, imports, ['_base_.default_runtime'], body)
