"""Runs that are stopped, killed and resumed equal runs that were not, bit for bit."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook

from clipdense.engine import CheckpointHook, EvaluationHook, Runner
from clipdense.engine import checkpointing as checkpointing_module
from clipdense.utils.errors import CheckpointError, InputError

from ..stopping import StopAt


def trained(config, **hooks) -> Runner:
    config = {**config, 'default_hooks': {**config['default_hooks'], **hooks}}
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


def saving(interval: int | None = 1, max_keep: int = -1, **options) -> dict:
    return {'type': CheckpointHook, 'interval': interval, 'max_keep': max_keep, **options}


def assert_same(ours: Runner, expected: Runner) -> None:
    for name, value in expected.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], value), name
    states = zip(
        ours.optim_wrapper.state_dict()['state'].values(),
        expected.optim_wrapper.state_dict()['state'].values(),
        strict=True,
    )
    for one, other in states:
        assert all(torch.equal(one[key], other[key]) for key in other)


ROWS = {  # steps before the stop, workers; an epoch has 5 steps
    'within the first epoch': (3, 0),
    'at the border': (5, 0),
    'at the border, workers': (5, 2),
    'first step of the second epoch': (6, 0),
    'within the second epoch, workers': (8, 2),
}


@pytest.mark.parametrize('stream', [False, True], ids=['map', 'iterable'])
@pytest.mark.parametrize(('stop', 'workers'), ROWS.values(), ids=ROWS)
def test_resumed_run_is_bit_exact(make_config, losses_of, stop, stream, workers):
    size = 20 if stream and workers else 10  # two equal workers
    layout = {'stream': stream, 'workers': workers, 'size': size, 'batch_size': size // 5}
    whole = trained(make_config(steps=11, **layout), checkpoint=None)
    trained(
        make_config(steps=11, work_dir='cut', **layout),
        checkpoint=saving(),
        stopper={'type': StopAt, 'step': stop},
    )
    resumed = trained(make_config(steps=11, work_dir='cut', resume=True, **layout), checkpoint=None)
    assert losses_of(resumed) == losses_of(whole)
    assert resumed.model.seen == whole.model.seen[stop:], 'the same samples in the same order'
    assert_same(resumed, whole)


def test_workers_do_not_change_the_run(make_config, losses_of):
    runs = [trained(make_config(work_dir=f'w{w}', workers=w), checkpoint=None) for w in (0, 2)]
    assert losses_of(runs[0]) == losses_of(runs[1])


def test_seed_decides(make_config, losses_of):
    losses = [
        losses_of(trained(make_config(work_dir=f'{i}', randomness={'seed': seed}), checkpoint=None))
        for i, seed in enumerate([1, 1, 2])
    ]
    assert losses[0] == losses[1] != losses[2]


def test_evaluation_and_validation_change_nothing(make_config, losses_of, tiny):
    def noisy(model):
        assert not model.training
        assert not torch.is_grad_enabled()
        return {'noise': float(torch.rand(()))}

    plain = trained(make_config(work_dir='plain'), checkpoint=None)
    config = make_config(
        work_dir='measured',
        val_dataloader={'dataset': {'type': tiny.Map, 'size': 4}, 'batch_size': 2},
        val_cfg={},
        val_evaluator=Evaluator([tiny.Metric()]),
        train_cfg={'max_steps': 6, 'val_interval': 2},
        custom_hooks=[{'type': EvaluationHook, 'evaluations': [noisy], 'interval': 1}],
    )
    measured = trained(config, checkpoint=None)
    assert losses_of(measured) == losses_of(plain)
    assert len(measured.message_hub.get_scalar('val/noise').data[0]) == 6
    assert len(measured.message_hub.get_scalar('val/tiny/size').data[0]) == 3
    assert measured.model.training


@pytest.mark.parametrize(('number', 'code'), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize('workers', [0, 1])
def test_signal_finishes_the_step_saves_and_exits(make_config, losses_of, number, code, workers):
    class Signal(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 3:
                os.kill(os.getpid(), number)

    config = make_config(work_dir='cut', workers=workers)
    handlers = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as stopped:
        trained(config, checkpoint=saving(interval=None), signal=Signal())
    assert stopped.value.code == code
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert [path.name for path in Path(config['work_dir']).glob('*.pth')] == ['step_4.pth']
    whole = trained(make_config(work_dir='whole'), checkpoint=None)
    resumed = trained({**config, 'resume': True}, checkpoint=None)
    assert losses_of(resumed) == losses_of(whole)


def test_second_interrupt_is_immediate(make_config):
    class Impatient(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(make_config(), checkpoint=None, signal=Impatient())


def _die_while_writing(config, at_step):
    """Train, and be killed halfway through writing the checkpoint of ``at_step``."""
    save = torch.save

    def half(content, file):
        if content['position']['step'] == at_step:
            save(content, file)
            file.flush()
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        save(content, file)

    torch.set_num_threads(1)
    checkpointing_module.torch.save = half
    trained(config, checkpoint=saving())


def test_kill_while_writing_leaves_the_previous_checkpoint(make_config, losses_of):
    config = make_config(work_dir='killed')
    child = multiprocessing.get_context('fork').Process(target=_die_while_writing, args=(config, 4))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    folder = Path(config['work_dir'])
    assert sorted(path.name for path in folder.glob('*.pth')) == ['step_1.pth', 'step_2.pth', 'step_3.pth']
    assert len(list(folder.glob('.step_4.pth.*.tmp'))) == 1
    whole = trained(make_config(work_dir='whole'), checkpoint=None)
    resumed = trained({**config, 'resume': True}, checkpoint=saving())
    assert losses_of(resumed) == losses_of(whole)
    assert not list(folder.glob('.*.tmp')), 'cleaned up'


class Poison(Hook):
    """Makes the loss of some steps NaN."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 in self.steps:
            data_batch['images'].fill_(float('nan'))


def test_nan_loss_stops_and_is_never_saved(make_config):
    config = make_config()
    with pytest.raises(InputError, match=r'the loss is nan at step 4.*learning rate'):
        trained(config, checkpoint=saving(), poison=Poison(4))
    assert checkpointing_module.newest_checkpoint(config['work_dir']).name == 'step_3.pth'


@pytest.mark.parametrize(('poisoned', 'passes'), [([2, 4, 5], True), ([3, 4, 5], False)])
def test_few_nan_steps_in_a_row_may_be_left_out(make_config, poisoned, passes):
    config = make_config()
    config['optim_wrapper']['max_skips'] = 2
    if not passes:
        with pytest.raises(InputError, match='nan at step 5'):
            trained(config, checkpoint=None, poison=Poison(*poisoned))
        return
    runner = trained(config, checkpoint=None, poison=Poison(*poisoned))
    assert all(value.isfinite().all() for value in runner.model.state_dict().values())


def test_best_is_kept_and_never_nan(make_config):
    values = iter([float('nan'), 0.3, 0.7, float('nan'), 0.6, 0.2])
    hook = {'type': EvaluationHook, 'evaluations': [lambda clip: {'top1': next(values)}], 'interval': 1}
    runner = trained(make_config(custom_hooks=[hook]), checkpoint=saving(None, save_best='top1'))
    best = checkpointing_module.read_checkpoint(Path(runner.work_dir) / 'best.pth')
    assert best['meta']['step'] == 3
    assert best['meta']['value'] == 0.7
    assert 'optimizer' not in best
    with pytest.raises(CheckpointError, match='weights only'):
        runner.resume(str(Path(runner.work_dir) / 'best.pth'))


def test_best_survives_resuming(make_config):
    values = iter([0.7, 0.1, 0.5, 0.6])
    hook = {'type': EvaluationHook, 'evaluations': [lambda clip: {'top1': next(values)}], 'interval': 1}
    config = make_config(steps=2, custom_hooks=[hook])
    trained(config, checkpoint=saving(save_best='top1'))
    longer = {**config, 'train_cfg': {'max_steps': 4}, 'resume': True}
    runner = trained(longer, checkpoint=saving(save_best='top1'))
    assert checkpointing_module.read_checkpoint(Path(runner.work_dir) / 'best.pth')['meta']['step'] == 1


def test_early_end_is_saved_and_resumed_within_its_epoch(make_config, losses_of):
    config = make_config(steps=8, work_dir='cut')
    trained(config, checkpoint=saving(None), stopper={'type': StopAt, 'step': 3})
    resumed = trained({**config, 'resume': True}, checkpoint=None)
    assert losses_of(resumed) == losses_of(trained(make_config(steps=8), checkpoint=None))


def test_validation_alone_does_not_touch_the_best(make_config, tiny):
    validation = {
        'val_dataloader': {'dataset': {'type': tiny.Map, 'size': 2}, 'batch_size': 2},
        'val_cfg': {},
        'val_evaluator': {'type': tiny.Metric},
    }
    config = make_config(**validation)
    config['default_hooks']['checkpoint'] = saving(save_best='tiny/size')
    runner = Runner.from_cfg(config)
    runner.val()
    assert not (Path(runner.work_dir) / 'best.pth').exists()


def test_max_keep(make_config):
    config = make_config(steps=4)
    runner = trained(config, checkpoint=saving(max_keep=2))
    folder = Path(runner.work_dir)
    assert sorted(path.name for path in folder.glob('step_*')) == ['step_3.pth', 'step_4.pth']
    assert (folder / 'last_checkpoint').read_text() == 'step_4.pth'
    trained({**config, 'train_cfg': {'max_steps': 6}, 'resume': True}, checkpoint=saving(max_keep=2))
    assert sorted(path.name for path in folder.glob('step_*')) == ['step_5.pth', 'step_6.pth']


def test_resume_may_change_batch_size_and_reports_it(make_config, capfd):
    config = make_config(steps=3, size=12)
    trained(config, checkpoint=saving())  # 6 of 12 samples
    changed = make_config(steps=4, size=12, batch_size=3, resume=True)
    runner = trained(changed, checkpoint=None)
    order = torch.randperm(12, generator=resume_generator()).tolist()
    assert runner.model.seen == [[float(i) for i in order[6:9]]]
    assert "'batch_size': 3" in capfd.readouterr().err


def resume_generator():
    from clipdense.engine.resume import _generator

    return _generator(5, 0)


REFUSED = {
    'stream': ({'stream': True, 'batch_size': 1}, 'resume with the same settings'),
    'uneven': ({'batch_size': 5, 'size': 10}, 'resume with the same settings'),
}


@pytest.mark.parametrize(('change', 'message'), REFUSED.values(), ids=REFUSED)
def test_resume_refuses_a_place_it_cannot_find(make_config, change, message):
    config = make_config(steps=3, stream=change.get('stream', False))
    trained(config, checkpoint=saving())
    with pytest.raises(InputError, match=message):
        trained(make_config(steps=4, resume=True, **change), checkpoint=None)


def test_resume_of_another_model_is_refused(make_config, tiny):
    config = make_config(steps=1)
    trained(config, checkpoint=saving())
    other = {**config, 'model': {'type': tiny.Model, 'width': 8}, 'resume': True}
    with pytest.raises(
        CheckpointError, match=r'3 of another shape \(first\.weight is \(4, 3\), expected \(8, 3\)'
    ):
        trained(other, checkpoint=None)


def test_resume_of_another_optimizer_is_refused(make_config):
    config = make_config(steps=1)
    trained(config, checkpoint=saving())
    config['optim_wrapper']['paramwise_cfg'] = {'rule': 'open_clip 3.3.0'}
    trained({**config, 'resume': True}, checkpoint=None)  # the same groups here

    class Freeze(Hook):
        def before_run(self, runner):
            runner.model.first.requires_grad_(False)

    runner = Runner.from_cfg({**config, 'resume': True})
    runner.model.first.requires_grad_(False)
    with pytest.raises(CheckpointError, match='optimizer groups'):
        runner.train()


def test_resume_with_a_new_schedule_follows_it(make_config):
    """lr and length come from the config of now: peak 0.2, cosine from step 2 to 10, at step 6 halfway."""
    config = make_config(steps=6)
    trained(config, checkpoint=saving())
    config['optim_wrapper']['optimizer']['lr'] = 0.2
    longer = {**config, 'train_cfg': {'max_steps': 10}, 'resume': True}

    class Rates(Hook):
        seen: list[float] = []  # noqa: RUF012

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.seen.append(runner.optim_wrapper.get_lr()['lr'][0])

    trained(longer, checkpoint=None, rates=Rates())
    assert Rates.seen[0] == pytest.approx(0.1)


def test_resume_in_an_empty_folder_starts_anew(make_config):
    assert trained(make_config(steps=1, resume=True), checkpoint=None).iter == 1


def test_load_from_takes_weights_only(make_config):
    source = trained(make_config(steps=2), checkpoint=saving())
    path = Path(source.work_dir) / 'step_2.pth'
    runner = Runner.from_cfg(make_config(work_dir='new', load_from=str(path)))
    runner.load_or_resume()
    assert torch.equal(runner.model.first.weight, source.model.first.weight)
    assert runner.iter == 0


def test_checkpoint_says_what_it_is(make_config):
    runner = trained(make_config(steps=1), checkpoint=saving())
    checkpoint = checkpointing_module.read_checkpoint(Path(runner.work_dir) / 'step_1.pth')
    assert checkpoint['meta']['seed'] == 5
    assert 'torch.optim.adamw.AdamW' in checkpoint['meta']['config']
    assert checkpoint['position'] == {
        'step': 1, 'epoch': 0, 'batches': 1, 'batch_size': 2, 'processes': 1, 'num_workers': 0,
        'dataset_size': 10,
    }  # fmt: skip


def test_screen_is_tidy(make_config, capfd):
    runner = trained(make_config(), checkpoint=None)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ''
    assert len(lines) == 3
    assert 'step 2/6, epoch 0: loss ' in lines[0]
    log = next(Path(runner.work_dir).glob('*/*.log')).read_text()
    assert 'mmengine 0.10' in log
    assert not list(Path(runner.work_dir).rglob('vis_data'))


def test_runs_of_one_process_stay_apart(make_config, losses_of):
    """MMEngine names its global instances by the second."""
    runs = [trained(make_config(steps=2), checkpoint=None) for _ in range(2)]
    assert runs[0].message_hub is not runs[1].message_hub
    assert [len(losses_of(run)) for run in runs] == [2, 2]
