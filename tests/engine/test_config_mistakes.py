"""A config with a mistake is refused before training, with the full name of the entry."""

from __future__ import annotations

import pytest
from mmengine.config import Config
from torch.optim import SGD

from clipdense.data.image_text.shards import ImageTextShards
from clipdense.engine import launch
from clipdense.evaluation.segmentation import MeanIoU
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer
from clipdense.methods.lseg.segmenter import LSeg
from clipdense.registry import CLASS_EMBEDDERS, EVALUATIONS, HOOKS, METRICS, MODELS
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
    'seed below 0': ({'randomness': {'seed': -1}}, 'random seed must be .* got -1'),
    'seed above 32 bits': ({'randomness': {'seed': 2**32}}, 'random seed must be'),
    'launcher that is not known': ({'launcher': 'pytoch'}, "launcher must be one of .* got 'pytoch'"),
    'launcher without torchrun': ({'launcher': 'pytorch'}, 'is for torchrun'),
    'log level': ({'log_level': 'LOUD'}, "log_level must be one of .* got 'LOUD'"),
    'start of workers': (
        {'env_cfg': {'mp_cfg': {'mp_start_method': 'frk'}}},
        'mp_start_method must be one of',
    ),
    'half of a validation': ({'val_cfg': {}}, 'val_dataloader and val_evaluator is missing'),
    'data that are missing': ({'train_dataloader': {'batch_size': 2, 'dataset': SHARDS}}, 'dataset: .*x.tar'),
}


@pytest.mark.parametrize(('entries', 'message'), SECTIONS.values(), ids=SECTIONS)
def test_a_config_with_a_mistake_is_not_trained(make_config, tmp_path, entries, message):
    with pytest.raises(InputError, match=message):
        launch.train(Config({**make_config(), **entries}), tmp_path / 'run')


UNKNOWN = {
    'model': (MODELS, {'type': LSeg, 'widht': 3}, "LSeg has no option 'widht'.*Did you mean 'width'"),
    'hook': (HOOKS, {'type': 'ProgressHook', 'intervall': 3}, "no option 'intervall'.*mean 'interval'"),
    'metric': (METRICS, {'type': MeanIoU, 'vocabulry': 3}, "MeanIoU has no option 'vocabulry'"),
    'evaluation': (EVALUATIONS, {'type': 'Retrieval', 'datset': 3}, "no option 'datset'"),
    'embedder': (CLASS_EMBEDDERS, {'type': 'PromptEnsemble', 'template': 3}, "mean 'templates'"),
}


@pytest.mark.parametrize(('registry', 'part', 'message'), UNKNOWN.values(), ids=UNKNOWN)
def test_an_option_that_a_part_does_not_have_is_refused_from_python_too(registry, part, message):
    with pytest.raises(InputError, match=message):
        registry.build(part)


def test_sizes_that_mean_nothing_are_refused():
    with pytest.raises(InputError, match='micro_batch must be at least 1, got 0'):
        ContrastivePretrainer('ViT-B-16/openai', micro_batch=0)
    with pytest.raises(InputError, match=r'shuffle must be .* got -1'):
        ImageTextShards('x.tar', batch_size=2, shuffle=-1)
