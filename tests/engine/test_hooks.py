"""Evaluation that changes nothing, words for each dataset, and one line of progress."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import BaseLoop
from torch import nn

from clipdense.engine import EvaluationHook, ProgressHook, Runner, TrainLoop, VocabularyHook
from clipdense.engine import hooks as hooks_module
from clipdense.engine.hooks import batch_length, grouped, paused, trim_history
from clipdense.engine.parallel import DistributedModel
from clipdense.registry import EVALUATIONS
from clipdense.structures import ClassEmbeddings
from clipdense.utils.errors import InputError
from clipdense.vocab.vocabulary import Vocabulary


@EVALUATIONS.register_module()
class WeightNorm:
    """Writes down when it was asked."""

    def __init__(self, name: str = 'norm') -> None:
        self.name = name

    def __call__(self, clip):
        return {self.name: torch.stack([p.norm() for p in clip.parameters()]).sum()}


def trained(config):
    runner = Runner.from_cfg({**config, 'default_hooks': {**config['default_hooks'], 'checkpoint': None}})
    runner.train()
    return runner


@pytest.mark.parametrize(
    ('options', 'steps'),
    [
        ({}, [5]),
        ({'interval': 2}, [2, 4, 5]),
        ({'interval': 2, 'at_end': False}, [2, 4]),
        ({'interval': 5}, [5]),
        ({'at_start': True}, [0, 5]),
        ({'at_end': False}, []),
    ],
    ids=str,
)
def test_when_it_measures(make_config, options, steps):
    hook = {'type': EvaluationHook, 'evaluations': [{'type': WeightNorm}], **options}
    runner = trained(make_config(steps=5, custom_hooks=[hook]))
    lines = [json.loads(line) for line in (Path(runner.work_dir) / 'metrics.jsonl').read_text().splitlines()]
    measured = [line for line in lines if 'norm' in line]
    assert [line['step'] for line in measured] == steps
    if 5 in steps:
        assert measured[-1]['norm'] == pytest.approx(WeightNorm()(runner.model)['norm'].item())


def test_two_evaluations_of_one_name_are_refused():
    hook = EvaluationHook([WeightNorm(), WeightNorm()])
    with pytest.raises(ValueError, match='norm'):
        hook.evaluate(nn.Linear(2, 2))
    assert set(EvaluationHook([WeightNorm('a'), WeightNorm('b')]).evaluate(nn.Linear(2, 2))) == {'a', 'b'}


def test_metrics_are_shown_in_groups():
    metrics = {
        'zero_shot/base/top1': 0.51239,
        'retrieval/r1': 1.0,
        'zero_shot/base/count': 640.0,
        'size': 2.0,
    }
    assert grouped(metrics) == '  zero_shot/base: top1 0.5124, count 640\n  retrieval: r1 1\n  size 2'


def test_pausing_finds_the_clip_and_restores_modes():
    model = nn.Module()
    model.clip = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    model.clip[1].eval()  # LiT's locked tower
    with paused(DistributedModel(model)) as clip:
        assert clip is model.clip
        assert not clip.training
        assert not clip(torch.ones(1, 2)).requires_grad
    assert [module.training for module in model.modules()] == [True, True, True, False]


def test_pausing_restores_after_an_error():
    model = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), paused(model):
        _ = 1 / 0
    assert model.training
    assert torch.is_grad_enabled()


class Wordy(nn.Module):
    """A model that is told words."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        self.clip = nn.Linear(1, 1)
        self.clip.requires_grad_(not frozen)
        self.told: list[tuple] = []

    def set_vocabulary(self, vocabulary, embeddings):
        self.told.append((vocabulary.class_names, embeddings.num_classes))


class FakeRunner:
    """As much of a runner as VocabularyHook looks at."""

    def __init__(self, frozen=True, **words) -> None:
        self.model = Wordy(frozen)
        self._train_loop = BaseLoop.__new__(TrainLoop)
        for stage in ('train', 'val', 'test'):
            dataset = type('Words', (), {'vocabulary': words.get(stage)})()
            setattr(self, f'{stage}_dataloader', type('Loader', (), {'dataset': dataset})())


class Rows:
    """An embedder that keeps the class names of the vocabularies it was asked for."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def embed(self, vocabulary):
        self.seen.append(vocabulary.class_names)
        count = len(vocabulary)
        return ClassEmbeddings(torch.eye(count), torch.arange(count), count)


def test_the_vocabulary_follows_the_stage_and_is_embedded_once():
    base, both = Vocabulary(('cat', 'dog')), Vocabulary(('cat', 'dog', 'emu'))
    runner, rows = FakeRunner(train=base, val=both, test=both), Rows()
    hook = VocabularyHook(embedder=rows)
    for stage in ('before_train', 'before_val', 'after_val', 'before_val', 'before_test'):
        getattr(hook, stage)(runner)
    assert [count for _, count in runner.model.told] == [2, 3, 2, 3, 3]
    assert rows.seen == [('cat', 'dog'), ('cat', 'dog', 'emu')]


class LearnedRows(nn.Linear, Rows):
    """An embedder that is trained itself, as learned prompts are."""

    def __init__(self) -> None:
        nn.Linear.__init__(self, 1, 1)
        self.seen = []


@pytest.mark.parametrize(('frozen', 'rows'), [(False, Rows), (True, LearnedRows)], ids=['tower', 'embedder'])
def test_names_are_embedded_again_while_what_embeds_them_learns(frozen, rows):
    runner, rows = FakeRunner(frozen=frozen, val=Vocabulary(('cat',))), rows()
    hook = VocabularyHook(embedder=rows)
    hook.before_val(runner)
    hook.before_val(runner)
    assert len(rows.seen) == 2


def test_a_model_may_bring_its_own_embedder():
    runner = FakeRunner(train=Vocabulary(('cat',)))
    runner.model.embedder = rows = Rows()
    VocabularyHook().before_train(runner)
    assert rows.seen == [('cat',)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'templates': 'name', 'embedder': Rows()}, 'give templates or embedder'),
        ({'templates': 'imagnet'}, "Did you mean 'imagenet'"),
        ({'embedder': 'name'}, 'must have a method embed'),
    ],
)
def test_embedders_that_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        VocabularyHook(**arguments).before_train(FakeRunner(train=Vocabulary(('cat',))))


class Teacher(nn.Linear):
    """Writes its moves down and does not make them: there may be one device here."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.moves: list[str] = []

    def to(self, device):
        self.moves.append(torch.device(device).type)
        return self


@pytest.mark.parametrize('fails', [False, True], ids=['', 'with an error'])
def test_a_teacher_embeds_names_where_the_model_is(fails):
    class Embeds:
        def __init__(self, clip):
            self.clip = clip

        def embed(self, vocabulary):
            self.clip.moves.append('embeds')
            if fails:
                raise InputError('no')
            return ClassEmbeddings(torch.eye(1), torch.arange(1), 1)

    runner, hook = FakeRunner(train=Vocabulary(('cat',))), VocabularyHook(embedder={'type': Embeds})
    runner.model.weight = nn.Parameter(torch.empty(1, device='meta'))
    del runner.model.clip
    runner.model.__dict__['clip'] = teacher = Teacher()
    with pytest.raises(InputError) if fails else nullcontext():
        hook.before_train(runner)
    assert teacher.moves == ['meta', 'embeds', 'cpu']


def test_a_long_test_says_how_far_it_is(make_config, tiny, monkeypatch, capfd):
    monkeypatch.setattr(hooks_module, '_PATIENCE', -1.0)
    test = {
        'test_dataloader': {'dataset': {'type': tiny.Map, 'size': 4}, 'batch_size': 2},
        'test_cfg': {},
        'test_evaluator': {'type': tiny.Metric},
    }
    monkeypatch.setattr(Runner, 'build_train_loop', None)  # the training data is not touched
    Runner.from_cfg(make_config(**test)).test()
    lines = [line[10:] for line in capfd.readouterr().err.splitlines()]
    assert len(lines) == 3
    assert lines[:2] == ['test: 1 of 2 batches', 'test: 2 of 2 batches']
    assert lines[2].startswith('test after step 0: tiny/size ')


def test_a_dataset_without_words_is_refused():
    with pytest.raises(InputError, match='Words has no attribute vocabulary'):
        VocabularyHook().before_test(FakeRunner())


@pytest.mark.parametrize(
    ('batch', 'length'),
    [
        ({'a': torch.ones(3, 2)}, 3),
        ({'a': [1, 2]}, 2),
        ([1, 2, 3, 4], 4),
        (torch.ones(5), 5),
        ({}, 0),
        (None, 1),
    ],
)
def test_batch_length(batch, length):
    assert batch_length(batch) == length


def test_history_is_trimmed(tmp_path):
    hub = MessageHub(str(tmp_path))
    for value in range(2001):
        hub.update_scalar('loss', value)
    trim_history(hub)
    assert hub.get_scalar('loss').data[0].tolist() == list(range(1001, 2001))


def test_progress_lines_are_means(make_config, losses_of):
    runner = trained(make_config(steps=5))
    lines = [json.loads(line) for line in (Path(runner.work_dir) / 'metrics.jsonl').read_text().splitlines()]
    losses = losses_of(runner)
    assert [line['step'] for line in lines] == [2, 4, 5]
    assert lines[1]['loss'] == pytest.approx((losses[2] + losses[3]) / 2)
    assert lines[2]['loss'] == pytest.approx(losses[4])
    assert {'lr', 'images_per_second', 'epoch'} <= set(lines[0])


@pytest.mark.parametrize('make', [lambda: ProgressHook(0), lambda: EvaluationHook([], 0)])
def test_interval_is_checked(make):
    with pytest.raises(InputError, match='interval'):
        make()
