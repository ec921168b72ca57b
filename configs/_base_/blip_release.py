"""BLIP as released: ViT-B/16 and a text transformer of the size of BERT-base, 8 processes."""

from torch.optim import AdamW

from clipdense.data.augment import StrongAugment
from clipdense.engine.optimizer import PrecisionOptimWrapper
from clipdense.methods.blip.tokenizer import CaptionIds

blip_operations = ['identity', 'autocontrast', 'brightness', 'sharpness', 'equalize', 'shear_x', 'shear_y']
blip_operations += ['translate_x', 'translate_y', 'rotate']
blip_augment = dict(
    type=StrongAugment,
    size=224,
    scale=(0.2, 1.0),
    interpolation='bicubic',
    operations=2,
    magnitude=5.0,
    erase=0.0,
    among=blip_operations,
    probability=1.0,
)
blip_ids = dict(type=CaptionIds, size=dict(), file='bert-base-uncased/vocab.txt', longest=30)
train_dataloader = dict(
    batch_size=75,  # of each process
    num_workers=4,
)
optim_wrapper = dict(
    type=PrecisionOptimWrapper,
    precision='auto',  # the release computes in fp32
    optimizer=dict(type=AdamW, lr=3e-4, weight_decay=0.05),
    paramwise_cfg=dict(rule='all'),
)
