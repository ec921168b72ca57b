"""The configs for VOC21 say what the published presets say."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipdense.engine.launch import load_config
from clipdense.methods.dense_clip.presets import find_preset

CONFIGS = sorted((Path(__file__).parents[3] / 'configs' / 'dense_clip').glob('*_voc21.py'))


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_config_is_the_preset(path):
    cfg = load_config(path)
    model, preset = cfg.model, find_preset(path.stem.removesuffix('_voc21'), 'voc21')
    assert model.recipe == path.stem.removesuffix('_voc21')
    asked = cfg.test_dataloader.dataset.vocabulary, cfg.custom_hooks[0]['templates']
    assert asked == (preset.words, preset.templates)
    assert model.slide.short_side == preset.short_side
    assert (model.slide.get('window'), model.slide.get('stride')) == (preset.window, preset.stride)
    for name in ('background_threshold', 'area_threshold'):
        assert model.get(name, 0.0) == getattr(preset, name)
    assert model.get('logit_scale', 40.0) == preset.logit_scale
    if preset.options:
        assert dict(model.options) == preset.options
