"""The config of SLIP on captions of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipdense.data.starting import Start


def slip(start: Start) -> str:
    """The text of the config: a CLIP is fine-tuned with captions and views."""
    start.need('captions')
    batch = max(2, start.batch_size(16))
    steps = start.steps(batch, epochs=10, most=2000)
    size = start.clip.preprocess.image_size
    view = f'dict(type=SimClrView, size={size})'
    own = {
        'transform': f'dict(type=ImageViews, caption=dict(type=SquareCrop, size={size}), '
        f'views=dict(first={view}, second={view}))',
        'tokenizer': "dict(type=tokenizer_of, weights='{{weights}}')",
    }
    body = f"""
weights = {start.weights!r}  # 'embedded' needs no download; or a file or name of a CLIP

model = dict(type=SlipPretrainer, clip='{{{{weights}}}}', partner=dict(type=SimClr))
train_dataloader = dict(
    batch_size={batch},  # images; larger batches learn better: micro_batch of the model saves memory
    num_workers=0,
    drop_last=True,
    dataset={start.layout.train.text(**own)},
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',
    optimizer=dict(type=AdamW, lr=1e-5, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1),
    paramwise_cfg=dict(rule='slip'),
)
train_cfg = dict(max_steps={steps})
param_scheduler = dict(type=WarmupCosine, warmup={max(1, steps // 10)})
"""
    imports = [
        'from torch.optim import AdamW',
        'from clipdense.data.image_text.datasets import tokenizer_of',
        'from clipdense.data.transforms import SquareCrop',
        'from clipdense.engine.optimizer import PrecisionOptimWrapper, WarmupCosine',
        'from clipdense.methods.slip.pretrainer import SlipPretrainer',
        'from clipdense.methods.slip.simclr import SimClr',
        'from clipdense.methods.slip.views import ImageViews, SimClrView',
    ]
    use = [f"clipdense classify PHOTO -c 'cat, dog' --weights {start.work_dir}/clip.safetensors"]
    about = 'SLIP on captions of your own: captions, and views of the same images.'
    return start.page(about, use, imports, ['_base_.default_runtime'], body)
