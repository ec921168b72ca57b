"""The config in small: train from shards, go on after a stop, load what was written, segment with it."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from clipdense.config import load_config
from clipdense.data.scenes import SceneSegmentation
from clipdense.engine.hooks import VocabularyHook
from clipdense.engine.launch import test as evaluate
from clipdense.engine.launch import train
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.groupvit.checkpoint import load

STAGES = [
    {'depth': 1, 'width': 16, 'num_heads': 2, 'group_tokens': 4, 'groups': 4},
    {'depth': 1, 'width': 16, 'num_heads': 2},
]


@pytest.fixture
def make_config(shards):
    """``make_config(steps) -> Config`` of groupvit_scenes, tiny and without its evaluations."""

    def make(steps, **model):
        cfg = load_config('groupvit/groupvit_scenes', {'model.start': None})
        size = cfg.model.clip.size
        size.image.update(stages=STAGES, embed_dim=8, projector_width=12)
        size.text.update(width=16, layers=1, num_heads=2, mlp_width=32, embed_dim=8)
        cfg.model.update(model)
        cfg.train_dataloader.update(batch_size=4, num_workers=0)
        cfg.train_dataloader.dataset.update(urls=str(shards), samples_per_epoch=8, shuffle=0)
        cfg.train_cfg.max_steps = steps
        cfg.default_hooks.checkpoint.interval = 2
        cfg.custom_hooks = {}
        return cfg

    return make


@pytest.mark.parametrize('model', [{}, {'background_weight': 0.5}], ids=['released', 'with background'])
def test_train_stop_go_on_and_segment(make_config, tmp_path, model):
    def cut(steps, folder, resume=False):
        cfg = make_config(steps, **model)
        cfg.model.clip.size.background = bool(model)
        return train(cfg, work_dir=tmp_path / folder, resume=resume)

    whole = cut(4, 'whole')
    cut(2, 'cut')
    resumed = cut(4, 'cut', resume=True)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name
    weights = tmp_path / 'cut' / 'clip.safetensors'
    assert_close(load(weights).state_dict(), resumed.model.clip.state_dict())
    assert_close(load(tmp_path / 'cut' / 'step_4.pth').state_dict(), resumed.model.clip.state_dict())

    cfg = load_config('groupvit/groupvit_voc21')
    cfg.test_dataloader = {
        'batch_size': 2,
        'dataset': {'type': SceneSegmentation, 'split': 'novel', 'num_images': 3},
    }
    cfg.test_cfg, cfg.test_evaluator = {}, {'type': MeanIoU}
    cfg.custom_hooks = {'vocabulary': {'type': VocabularyHook, 'templates': 'simple'}}
    cfg.model.update(slide={}, background_threshold=None if model else 0.2)
    metrics = evaluate(cfg, weights, work_dir=tmp_path / 'work')
    assert 0 <= metrics['mIoU'] <= 1


def test_the_evaluations_of_the_config_run(make_config, tmp_path):
    cfg = make_config(1)
    hook = load_config('groupvit/groupvit_scenes').custom_hooks.segmentation
    evaluation = hook.evaluations['segmentation/base']
    evaluation.dataset.num_images = evaluation.tuning.num_images = 2
    cfg.custom_hooks = {'segmentation': {**hook, 'evaluations': {'base': evaluation}}}
    runner = train(cfg, work_dir=tmp_path / 'run')
    assert runner.message_hub.get_scalar('val/segmentation/base/oracle').current() > 0
