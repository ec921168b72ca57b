"""A config with a mistake is refused before training, with the full name of the entry."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch.optim import SGD

from clipdense.cli import main
from clipdense.data.image_text.shards import ImageTextShards
from clipdense.engine import launch
from clipdense.engine.checks import check_tokenizer, check_values, warn_of_data_root
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
        {'optim_wrapper': {'optimizer': {'type': SGD, 'lr': 1.0, 'nesterov': True}}},
        'Nesterov momentum requires a momentum',
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


VALUES = {  # dotted name, value, message
    'warm-up': ('param_scheduler.warmup', -1, 'param_scheduler.warmup must be .* at least 0, got -1'),
    'text for a warm-up': ('param_scheduler.warmup', 'abc', "warmup must be .* whole number.* got 'abc'"),
    'eps': ('optim_wrapper.optimizer.eps', -1, 'optimizer.eps must be a number of at least 0'),
    'text for eps': ('optim_wrapper.optimizer.eps', 'abc', "optimizer.eps must be a number .* got 'abc'"),
    'learning rate': ('optim_wrapper.optimizer.lr', -1e-3, 'optimizer.lr must be a number of at least 0'),
    'weight decay': ('optim_wrapper.optimizer.weight_decay', -1, 'optimizer.weight_decay must be'),
    'accumulation': ('optim_wrapper.accumulative_counts', 0, 'accumulative_counts must be .* at least 1'),
    'skips': ('optim_wrapper.max_skips', -1, 'optim_wrapper.max_skips must be .* at least 0'),
    'clipping': ('optim_wrapper.clip_grad', {'max_norm': -1}, 'clip_grad.max_norm must be a number above 0'),
    'name in clipping': ('optim_wrapper.clip_grad', {'maxnorm': 1}, "clip_grad.maxnorm: .*'max_norm'"),
    'number for clipping': ('optim_wrapper.clip_grad', 1, 'clip_grad must be a part'),
    'steps': ('train_cfg.max_steps', 0, 'train_cfg.max_steps must be .* at least 1, got 0'),
    'text for a batch': ('train_dataloader.batch_size', 'abc', "batch_size must .* got 'abc'"),
    'empty batch': ('train_dataloader.batch_size', 0, 'batch_size must be .* at least 1, got 0'),
    'part of a batch': ('train_dataloader.batch_size', 1.5, 'batch_size must be a whole number'),
    'no batch': ('train_dataloader.batch_size', None, 'batch_size must be .* at least 1, got None'),
    'workers': ('train_dataloader.num_workers', -1, 'num_workers must be .* at least 0, got -1'),
    'part of a worker': ('train_dataloader.num_workers', 1.5, 'num_workers must be a whole number'),
    'prefetching': ('train_dataloader.prefetch_factor', 0, 'prefetch_factor must be .* at least 1'),
    'timeout': ('train_dataloader.timeout', -1, 'train_dataloader.timeout must be a number of at least 0'),
    'number for true': ('train_dataloader.drop_last', 3, 'drop_last must be true or false, got 3'),
    'no data': ('train_dataloader.dataset', None, 'train_dataloader.dataset must be a part'),
    'text for data': ('train_dataloader.dataset', 'abc', "train_dataloader.dataset must .* 'abc'"),
    'negative epoch': ('train_dataloader.dataset.samples_per_epoch', -5, 'samples_per_epoch must be .* 1'),
    'negative shuffle': ('train_dataloader.dataset.shuffle', -1, 'dataset.shuffle must be .* at least 0'),
    'micro-batch': ('model.micro_batch', 0, 'model.micro_batch must be .* at least 1, got 0'),
    'launcher': ('launcher', 'abc', "launcher must be one of none, pytorch, .* got 'abc'"),
    'number for a launcher': ('launcher', 3, 'launcher must be one of .* got 3'),
    'negative seed': ('randomness.seed', -1, 'random seed must be .* got -1'),
    'unknown section': ('trian_cfg.max_steps', 3, "no entry 'trian_cfg'. Did you mean 'train_cfg'"),
    'model': ('model', 'abc', "model must be a part .* 'abc'"),
}


@pytest.mark.parametrize(('key', 'value', 'message'), VALUES.values(), ids=VALUES)
def test_a_value_that_cannot_be_is_not_trained_with(tmp_path, key, value, message):
    """Before the model and the data are built: neither folder nor shards are there."""
    with pytest.raises(InputError, match=message) as error:
        launch.train('contrastive/clip_scenes', tmp_path / 'run', options={key: value})
    assert '\n' not in str(error.value)
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ('model.micro_batch=0', 'model.micro_batch must be'),
        ('launcher=abc', 'launcher must be one of'),
        ('model=abc', 'model must be a part'),
        ('custom_hooks=3', 'custom_hooks must be a part'),
        ('model.micro_batch', 'must have the form name=value'),
        ('model.micro_batchh=1', "Did you mean 'micro_batch'"),
        ('randomness.seed=-1', 'random seed must be'),
    ],
)
@pytest.mark.parametrize('command', ['train', 'test'])
def test_commands_say_it_in_one_line(tmp_path, capsys, command, option, message):
    (tmp_path / 'weights.pth').touch()  # is not read
    weights = [str(tmp_path / 'weights.pth')] if command == 'test' else []
    arguments = [command, 'contrastive/clip_scenes', *weights, '--work-dir', str(tmp_path / 'run')]
    with pytest.raises(SystemExit) as left:
        main([*arguments, '-o', option])
    assert left.value.code == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert '\n' not in told


def test_a_size_of_a_tower_names_the_setting(tmp_path, capsys):
    given = ['--work-dir', str(tmp_path / 'run'), '-o', 'model.clip.size.image.width=abc']
    with pytest.raises(SystemExit):
        main(['train', 'contrastive/clip_scenes', *given])
    assert "width of the image tower must be a whole number, got 'abc'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('warmup', 'steps', 'said'),
    [(9, 10, False), (10, 10, True), (100, 10, True), (None, 10, False), (9, None, False)],
)
@pytest.mark.parametrize('listed', [False, True])
def test_a_warm_up_that_lasts_the_whole_run_is_said(recwarn, warmup, steps, said, listed):
    schedule = {'type': 'CosineSchedule', 'warmup': warmup}
    check_values({'train_cfg': {'max_steps': steps}, 'param_scheduler': [schedule] if listed else schedule})
    lines = [str(warning.message) for warning in recwarn]
    assert ['the learning rate only increases' in line for line in lines] == [True] * said


@pytest.mark.parametrize(
    ('root', 'path', 'changes', 'said'),
    [
        ('data/mine', 'mine.json', {}, True),
        ('data/mine', 'data/mine/mine.json', {}, False),
        ('data/mine/', 'data/mine', {}, False),
        ('data/mine', 'data/mine/mine.json', {'train_dataloader': 'other.json'}, False),
        ('data/mine', 'data/mine/mine.json', {'data_root': 'data/other'}, True),
        ('', 'mine.json', {}, False),
        (None, 'mine.json', {}, False),
    ],
)
def test_a_data_root_that_nothing_uses_is_said(recwarn, root, path, changes, said):
    written = {'data_root': root, 'train_dataloader': {'dataset': {'type': 'Own', 'files': [path]}}}
    warn_of_data_root(written, {**written, **changes})
    assert ['data_root' in str(warning.message) for warning in recwarn] == [True] * said


OPENAI, OTHER = 'openai-bpe abc 77', 'huggingface def (1, 2)'


def tokenizer(identity, vocab_size=49408, **parts):
    return SimpleNamespace(identity=identity, vocab_size=vocab_size, **parts)


@pytest.mark.parametrize(
    ('own', 'given', 'said'),
    [
        (OPENAI, tokenizer(OPENAI), False),
        (OPENAI, tokenizer('openai-bpe abc 32'), False),  # another length
        (OPENAI, tokenizer(OTHER), True),
        (OTHER, tokenizer(OPENAI), True),
        (OTHER, tokenizer('huggingface xyz (1, 2)'), True),
        (OPENAI, SimpleNamespace(tokenizer=tokenizer(OTHER)), True),  # as in NounPrompts
        (None, tokenizer(OTHER), False),
        (OPENAI, None, False),
    ],
)
@pytest.mark.parametrize('fits', [True, False])
def test_two_tokenizers_are_said(recwarn, own, given, said, fits):
    text = SimpleNamespace(size=SimpleNamespace(vocab_size=49408 if fits else 32000))
    model = SimpleNamespace(clip=SimpleNamespace(tokenizer=tokenizer(own), text=text))
    check_tokenizer(model, SimpleNamespace(tokenizer=given))
    lines = [str(warning.message) for warning in recwarn]
    assert ['the dataset tokenizes captions by' in line for line in lines] == [True] * (said and fits)
    check_tokenizer(SimpleNamespace(), SimpleNamespace(tokenizer=given))  # a model without a CLIP
