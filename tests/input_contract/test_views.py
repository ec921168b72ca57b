"""The table below "Views" of docs/input_contract.md."""

from __future__ import annotations

import logging
import random
import warnings

import torch
from torch.utils.data import Dataset

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, ResNetSize, TextSize, VitSize
from clipdense.engine import Runner
from clipdense.methods.slip.byol import Byol
from clipdense.methods.slip.masked import MaskedImageModeling
from clipdense.methods.slip.pretrainer import SlipPretrainer
from clipdense.methods.slip.simclr import SimClr
from clipdense.methods.slip.views import ImageViews, SimClrView

SECTION = 'Views'

VIT = VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
RESNET = ResNetSize(image_size=32, width=8, layers=(1, 1, 1, 1), num_heads=4, embed_dim=16)
TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16, vocab_size=50, context_length=8)


class Images(Dataset):
    """Named images with ``views`` views and a caption."""

    def __init__(self, views=3, captions=True, side=16):
        self.views, self.captions, self.side = views, captions, side

    def __len__(self):
        return 8

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        shape = (self.views, 3, self.side, self.side) if self.views else (3, self.side, self.side)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        ids = {'token_ids': torch.tensor([1, 2 + index, 49, 0, 0, 0, 0, 0])} if self.captions else {}
        return {'images': images, **ids, 'names': f'{index}.jpg'}


class Pass(logging.Handler):
    """Passes warnings of the log on to ``warnings``."""

    def emit(self, record):
        warnings.warn(record.getMessage(), stacklevel=1)


def model(partner=SimClr, size=VIT, weights=None, bias=False, **options):
    settings = {'hidden': 8} if partner is MaskedImageModeling else {'hidden': 8, 'output': 8}
    clip = build_clip(ClipSize(size, TEXT, logit_bias=bias))
    return SlipPretrainer(clip, {'type': partner, **settings, **(weights or {})}, **options)


def run(folder, slip=None, data=None, size=4, **entries):
    """Two steps."""
    runner = Runner.from_cfg(
        {
            'model': slip or model(),
            'work_dir': str(folder / 'run'),
            'train_dataloader': {'dataset': data or Images(), 'batch_size': size},
            'train_cfg': {'max_steps': 2},
            'optim_wrapper': {'optimizer': {'type': torch.optim.SGD, 'lr': 0.01}, 'precision': 'fp32'},
            'randomness': {'seed': 0},
            **entries,
        }
    )
    runner.logger.handlers.append(Pass(logging.WARNING))
    runner.train()
    return runner


def nan(folder):
    slip = model()
    slip.partner.head.layer3.bias.data.fill_(float('nan'))
    run(folder, slip)


def several_sizes(_):
    ImageViews([SimClrView(16), SimClrView(8)])(torch.zeros(3, 9, 9, dtype=torch.uint8), random.Random(0))


def another_partner(folder):
    run(folder)
    run(folder, model(Byol), resume=True, load_from=str(folder / 'run/step_2.pth'))


READ = {
    'images with a caption and two views': run,
    'more views than the partner needs': lambda f: run(f, data=Images(4)),
    'images without captions, `clip_weight=0`': lambda f: run(
        f, model(clip_weight=0.0), Images(2, captions=False)
    ),
    'images without captions': lambda f: run(f, data=Images(captions=False)),
    'images without views': lambda f: run(f, data=Images(0)),
    'views of several sizes': several_sizes,
    'batches of one image': lambda f: run(f, size=1),
    "views of another size than the model's": lambda f: run(f, data=Images(side=24)),
    'a sample with NaN': nan,
    'a probability above 1': lambda f: SimClrView(16, gray=1.5),
    'the momentum of a teacher above 1': lambda f: model(Byol, weights={'momentum': 1.5}),
    'a temperature of 0': lambda f: model(weights={'temperature': 0}),
    'masked images with a ResNet': lambda f: model(MaskedImageModeling, RESNET),
    'a model with a `logit_bias`': lambda f: model(bias=True),
    'a checkpoint of a run with another partner': another_partner,
}


def test_row(row, check):
    check(row, READ)
