"""A config with a mistake is refused before training, with the full name of the entry."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from torch.optim import SGD

from clipdense.data.image_text.shards import ImageTextShards
from clipdense.engine import launch
from clipdense.utils.errors import InputError

SHARDS = {'type': ImageTextShards, 'urls': 'x.tar'}
SECTIONS = {
    'list for a part': ({'train_cfg': [1]}, 'train_cfg must be a part such as .* got a list'),
    'word for a part': ({'optim_wrapper': 'x'}, "optim_wrapper must be a part .* 'x'"),
    'number for a part': ({'default_hooks': 3}, 'default_hooks must be a part'),
    'unknown entry': ({'train_cfg': {'max_steps': 2, 'max_step': 3}}, "train_cfg.max_step: .*'max_steps'"),
    'misspelled part': ({'param_schedular': {}, 'param_scheduler': None}, "Did you mean 'param_scheduler'"),
    'optimizer': (
        {'optim_wrapper': {'optimizer': {'type': SGD, 'lr': 1, 'momentun': 2}}},
        'optimizer.momentun',
    ),
    'refused by torch': (
        {'optim_wrapper': {'optimizer': {'type': SGD, 'lr': 1.0, 'momentum': -1.0}}},
        'Invalid momentum value',
    ),
    'data that are missing': ({'train_dataloader': {'batch_size': 2, 'dataset': SHARDS}}, 'dataset: .*x.tar'),
}


@pytest.mark.parametrize(('entries', 'message'), SECTIONS.values(), ids=SECTIONS)
def test_a_config_with_a_mistake_is_not_trained(make_config, tmp_path, entries, message):
    with pytest.raises(InputError, match=message):
        launch.train(Config({**make_config(), **entries}), tmp_path / 'run')
