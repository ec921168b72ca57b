"""The configs in small: train from shards, go on after a stop, the serial variant, two processes as one."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from clipdense.clip.checkpoint import load
from clipdense.config import load_config
from clipdense.data.classification.datasets import LabeledFolder
from clipdense.engine.launch import train
from clipdense.methods.slip.byol import Byol
from clipdense.methods.slip.dino import Dino
from clipdense.methods.slip.moco import MocoV3
from clipdense.methods.slip.simclr import SimClr
from clipdense.utils.errors import InputError

from ...stopping import StopAt

TINY = {'hidden': 16, 'output': 8}


@pytest.fixture
def make_config(shards):
    """``make_config(name, steps) -> Config`` of a config for scenes, tiny and without its evaluations."""

    def make(name, steps=4, **model):
        cfg = load_config(f'slip/{name}')
        if isinstance(cfg.model.clip, dict):
            size = cfg.model.clip.size
            size.image.update(width=8, num_heads=4, embed_dim=8)
            size.text.update(width=16, layers=1, num_heads=2, mlp_width=32, embed_dim=8)
        if 'partner' in cfg.model:
            cfg.model.partner.update(TINY)
        for key, value in model.items():
            cfg.model[key] = {**cfg.model[key], **value} if key == 'partner' else value
        cfg.train_dataloader.update(batch_size=4, num_workers=0)
        cfg.train_dataloader.dataset.update(urls=str(shards), samples_per_epoch=8, shuffle=0)
        cfg.train_cfg.max_steps = steps
        cfg.param_scheduler.warmup = 1
        cfg.default_hooks.checkpoint.interval = 2
        cfg.custom_hooks = {}
        return cfg

    return make


@pytest.mark.parametrize('partner', [SimClr, Byol, MocoV3, Dino])
def test_train_stop_and_go_on(make_config, tmp_path, partner):
    """Bit for bit, the teacher and its schedule included."""

    def cut(steps, folder, resume=False):
        cfg = make_config('slip_scenes', partner={'type': partner})
        if steps < 4:
            cfg.custom_hooks = {'stop': {'type': StopAt, 'step': steps}}
        return train(cfg, work_dir=tmp_path / folder, resume=resume)

    whole = cut(4, 'whole')
    cut(2, 'cut')
    resumed = cut(4, 'cut', resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    assert_close(load(tmp_path / 'cut' / 'clip.safetensors').state_dict(), resumed.model.clip.state_dict())


def test_the_serial_variant(make_config, tmp_path):
    train(make_config('slip_scenes_alone'), work_dir=tmp_path / 'alone')
    weights = str(tmp_path / 'alone' / 'clip.safetensors')
    first = load(weights)
    cfg = make_config('slip_scenes_serial', clip=weights)
    cfg.optim_wrapper.optimizer.lr = 0.0
    second = train(cfg, work_dir=tmp_path / 'serial')
    trained = dict(second.model.clip.named_parameters())
    for name, p in first.named_parameters():
        assert_close(trained[name], p, msg=name)


def test_the_tower_learns_from_a_folder_without_captions(make_config, tmp_path):
    for number in range(6):
        path = tmp_path / f'images/{number % 2}/{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 36), (40 * number, 200 - 30 * number, 90)).save(path)
    cfg = make_config('slip_scenes_alone', steps=2)
    transform = cfg.train_dataloader.dataset.transform
    cfg.train_dataloader.dataset = {
        'type': LabeledFolder,
        'root': tmp_path / 'images',
        'transform': transform,
    }
    runner = train(cfg, work_dir=tmp_path / 'run')
    assert runner.iter == 2
    assert (tmp_path / 'run/clip.safetensors').is_file()


def test_data_without_views_or_captions(make_config, tmp_path):
    cfg = make_config('slip_scenes')
    cfg.train_dataloader.dataset.transform = None
    with pytest.raises(InputError, match='SimClr needs 3 images per sample'):
        train(cfg, work_dir=tmp_path / 'run')
    cfg = make_config('slip_scenes')
    cfg.train_dataloader.batch_size = 1
    with pytest.raises(InputError, match='SLIP needs at least 2 images per step'):
        train(cfg, work_dir=tmp_path / 'run')
