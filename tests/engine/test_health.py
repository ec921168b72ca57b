"""What is said about batches, losses and weights from which nothing can be learned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from PIL import Image
from torch import nn

from clipdense.data.image_text.datasets import CsvPairs
from clipdense.data.transforms import SquareCrop
from clipdense.engine import CheckpointHook, EvaluationHook, Runner
from clipdense.engine.checkpointing import newest_checkpoint, read_checkpoint, what_remains, write_checkpoint
from clipdense.engine.health import (
    LossWatch,
    equal_captions,
    listed,
    sample_names,
    weights_fault,
    without_names,
)
from clipdense.structures import SegmentationSample
from clipdense.utils.errors import CheckpointError, InputError
from clipdense.utils.files import locked

SAVE = {'type': CheckpointHook, 'interval': 1, 'max_keep': -1}
NAN, INF = float('nan'), float('inf')


def trained(config, checkpoint=None, **hooks) -> Runner:
    config = {**config, 'default_hooks': {**config['default_hooks'], 'checkpoint': checkpoint, **hooks}}
    runner = Runner.from_cfg(config)
    runner.train()
    return runner


WEIGHTS = {
    'usual': ({'a': torch.tensor([1.0, -3.0])}, None),
    'NaN': ({'a': torch.ones(2), 'b': torch.tensor([1.0, NAN])}, 'b is not finite'),
    'infinity': ({'a': torch.tensor(-INF)}, 'a is not finite'),
    'half, overflowed': ({'a': torch.tensor([70000.0]).half()}, 'a is not finite'),
    '2e29': ({'a': torch.tensor([2e29])}, 'a has values up to 2e+29: training has diverged'),
    'negative': ({'a': torch.tensor([-1e9])}, 'a has values up to 1e+09'),
    'a large variance': ({'bn.running_var': torch.tensor([1e10])}, None),
    'integers': ({'steps': torch.tensor([2**40])}, None),
    'empty': ({'a': torch.zeros(0)}, None),
}


@pytest.mark.parametrize(('state', 'fault'), WEIGHTS.values(), ids=WEIGHTS)
def test_weights(state, fault):
    found = weights_fault({'state_dict': state})
    assert found == fault if fault is None else found.startswith(fault)


def test_state_of_the_optimizer_counts():
    state = {'state': {0: {'step': torch.tensor(3.0), 'exp_avg': torch.tensor([NAN])}}}
    fault = weights_fault({'state_dict': {'a': torch.ones(1)}, 'optimizer': state})
    assert fault == 'the state of the optimizer is not finite'


class Spoil(Hook):
    """Writes a value into a weight after a step, as a diverging update does."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    priority = 'HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.step:
            runner.model.first.weight.data[0, 0] = self.value


@pytest.mark.parametrize(
    ('value', 'fault'), [(NAN, 'is not finite'), (2e29, r'values up to 2e\+29'), (-INF, 'not')]
)
@pytest.mark.parametrize('on_error', ['raise', 'warn'])
def test_bad_weights_are_never_saved(make_config, value, fault, on_error):
    config = make_config()
    with pytest.raises(InputError, match=rf'step_4\.pth is not saved: first\.weight.*{fault}.*step_3\.pth'):
        trained(config, {**SAVE, 'on_error': on_error}, spoil=Spoil(4, value))
    assert newest_checkpoint(config['work_dir']).name == 'step_3.pth'


def test_a_bad_checkpoint_of_another_program_is_passed_over(make_config, capfd):
    config = make_config(steps=3)
    trained(config, SAVE)
    path = Path(config['work_dir']) / 'step_3.pth'
    content = read_checkpoint(path)
    content['state_dict']['first.weight'][0] = 2e29
    write_checkpoint(path, content)
    assert what_remains(path.parent) == '--resume continues from step_2.pth, whose weights are finite'
    with pytest.raises(CheckpointError, match=r'step_3\.pth cannot be resumed: first\.weight has values'):
        trained({**config, 'resume': True, 'load_from': str(path)})
    longer = make_config(steps=5, resume=True)
    assert trained(longer).iter == 5
    assert 'resuming from step_2.pth instead' in capfd.readouterr().err


def test_without_a_checkpoint_none_is_claimed(tmp_path):
    assert what_remains(tmp_path) == 'there is no checkpoint yet'


@pytest.mark.parametrize('part', ['position', 'random', 'message_hub', 'optimizer', 'param_schedulers'])
def test_incomplete_checkpoints_are_refused_by_name(make_config, part):
    config = make_config(steps=1)
    runner = trained(config, SAVE)
    path = Path(runner.work_dir) / 'step_1.pth'
    content = read_checkpoint(path)
    content[part] = 3
    write_checkpoint(path, content)
    with pytest.raises(CheckpointError, match=f'has no {part}'):
        trained({**config, 'resume': True})


class Dataset(torch.utils.data.Dataset):
    """Samples with names; sample 7 has a NaN."""

    def __init__(self, bad: int = 7, size: int = 10) -> None:
        self.bad, self.size = bad, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index):
        value = NAN if index == self.bad else float(index)
        return {
            'images': torch.full((3,), value),
            'labels': torch.tensor([0.0]),
            'names': f'shard-{index // 5}.tar/{index:06d}',
        }


def test_nan_names_the_samples_and_what_can_be_resumed(make_config):
    config = make_config(train_cfg={'max_epochs': 1})
    config['train_dataloader']['dataset'] = {'type': Dataset}
    with pytest.raises(InputError, match=r'the loss is nan at step \d') as error:
        trained(config, SAVE)
    message = str(error.value)
    assert 'samples of the batch: ' in message
    assert 'shard-1.tar/000007' in message
    assert '\n' not in message
    assert '--resume continues from step_' in message or 'there is no checkpoint yet' in message


NAMES = {
    'pairs': ({'images': 1, 'names': ['a.jpg', 'b.jpg']}, ['a.jpg', 'b.jpg']),
    'segmentation': (
        {'samples': [SegmentationSample('x/a.png', (2, 2)), SegmentationSample('', (1, 1))]},
        ['x/a.png'],
    ),
    'none': ({'images': torch.ones(2)}, []),
    'no dict': ([1, 2], []),
}


@pytest.mark.parametrize(('batch', 'names'), NAMES.values(), ids=NAMES)
def test_sample_names(batch, names):
    assert sample_names(batch) == names
    assert 'names' not in without_names(batch)


def test_names_of_detection():
    structures = pytest.importorskip('mmdet.structures')
    sample = structures.DetDataSample(metainfo={'img_path': 'a.jpg', 'img_id': 42})
    assert sample_names({'inputs': [], 'data_samples': [sample]}) == ['a.jpg (image id 42)']


def test_long_lists_are_cut():
    assert listed([]) == ''
    assert listed([str(i) for i in range(64)]).endswith('0, 1, 2, 3, 4, 5, 6, 7, ... (64 in all)')


def test_pairs_have_names(tmp_path):
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    (tmp_path / 'c.tsv').write_text('filepath\ttitle\na.png\ta dog\n')
    item = CsvPairs(tmp_path / 'c.tsv', transform=SquareCrop(8))[0]
    assert item['names'] == str(tmp_path / 'a.png')


def test_remarks_on_losses():
    watch = LossWatch()
    assert not any(watch.remark(1.0 + step % 3) for step in range(50))
    assert 'is 2e+29, far above the usual 2' in watch.remark(2e29).replace('1.98', '2')
    assert watch.remark(1.5) is None
    zeros = [watch.remark(0.0) for _ in range(9)]
    assert [bool(remark) for remark in zeros] == [True] * 3 + [False] * 6
    assert 'nothing is learned' in zeros[0]
    assert zeros[2].endswith('further ones are not logged')


def test_a_loss_of_zero_is_said(make_config, tiny, capfd):
    class Idle(tiny.Model):
        def forward(self, images, labels, mode='tensor'):
            return {'loss': (self.first(images) * 0).sum()}

    trained({**make_config(), 'model': {'type': Idle}})
    err = capfd.readouterr().err
    assert err.count('the loss is exactly 0, so nothing is learned from this batch') == 3
    assert 'step 1:' in err


def test_one_value_per_channel_is_refused_by_name(make_config, tiny):
    class Normed(tiny.Model):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(self.first, nn.BatchNorm1d(4))

    config = {**make_config(size=5, batch_size=1, steps=3), 'model': {'type': Normed}}
    with pytest.raises(InputError, match=r'step 1: batch norm needs more than one value.*drop_last=True'):
        trained(config)


def test_an_unexpected_error_names_the_samples(make_config, tiny, capfd):
    class Broken(tiny.Model):
        def forward(self, images, labels, mode='tensor'):
            raise IndexError('Target 30 is out of bounds.')

    config = {**make_config(), 'model': {'type': Broken}}
    config['train_dataloader']['dataset'] = {'type': Dataset}
    with pytest.raises(IndexError):
        trained(config)
    assert 'step 1 failed; samples of the batch: shard-' in capfd.readouterr().err


class Killer(Dataset):
    def __getitem__(self, index):
        if torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_killed_worker_is_one_line(make_config):
    config = make_config(workers=1)
    config['train_dataloader']['dataset'] = {'type': Killer}
    with pytest.raises(InputError, match=r'a data worker died before step 1.*lower num_workers') as error:
        trained(config)
    assert '\n' not in str(error.value)


def test_rate_of_zero_is_said(make_config, capfd):
    config = make_config()
    config['optim_wrapper']['optimizer']['lr'] = 0.0
    trained(config)
    assert 'the learning rate is 0: training will not change the weights' in capfd.readouterr().err


def test_frozen_model_is_refused_whatever_builds_the_optimizer(make_config, tiny):
    class Frozen(tiny.Model):
        def __init__(self) -> None:
            super().__init__()
            self.requires_grad_(False)

    config = {**make_config(), 'model': {'type': Frozen}}
    config['optim_wrapper']['constructor'] = 'DefaultOptimWrapperConstructor'
    with pytest.raises(InputError, match='all parameters are frozen'):
        trained(config)


METRICS = {
    'misspelled': ('zero_shot/top_1', {'zero_shot/top1': 0.5}, "Did you mean 'zero_shot/top1'"),
    'never finite': ('top1', {'top1': NAN}, 'no evaluation gave a finite top1'),
    'no evaluation': ('top1', None, 'there was none'),
}


@pytest.mark.parametrize(('name', 'metrics', 'said'), METRICS.values(), ids=METRICS)
def test_best_that_is_never_written_is_said(make_config, capfd, name, metrics, said):
    hook = {'type': EvaluationHook, 'evaluations': [lambda clip: metrics], 'interval': 3}
    trained(make_config(custom_hooks=[hook] if metrics else []), {**SAVE, 'save_best': name})
    err = capfd.readouterr().err
    assert 'best.pth was not written' in err
    assert said in err


def test_resume_with_other_data(make_config, capfd):
    trained(make_config(steps=3), SAVE)
    with pytest.raises(InputError, match=r'resume with the same settings and data \(dataset_size=10\)'):
        trained(make_config(steps=8, size=12, resume=True))
    trained(make_config(steps=5, work_dir='border'), SAVE)
    runner = trained(make_config(steps=8, size=12, resume=True, work_dir='border'))
    assert 'the training data has 12 samples or shards, 10 when' in capfd.readouterr().err
    assert runner.train_loop.position.epoch == 1


def test_two_runs_cannot_use_one_folder(make_config, tmp_path):
    config = make_config()
    folder = Path(config['work_dir'])
    folder.mkdir()
    code = (
        'import sys\nfrom pathlib import Path\nfrom clipdense.utils.files import locked\n'
        'with locked(Path(sys.argv[1])):\n    print("locked", flush=True)\n    sys.stdin.read()\n'
    )
    with subprocess.Popen(
        [sys.executable, '-c', code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == 'locked\n'
        with pytest.raises(InputError, match=rf'in use by another run \(process {other.pid} on'):
            trained(config)
        other.stdin.close()
    assert trained(config).iter == 6
    assert not (folder / '.lock').exists()
    with locked(folder):
        assert (folder / '.lock').exists()


def test_evaluations_without_samples_are_refused(make_config, tiny):
    class Empty:
        dataset = Dataset(size=0)

        def __call__(self, clip):
            return {'top1': NAN}

    with pytest.raises(InputError, match='the dataset of Empty has 0 samples'):
        EvaluationHook({'empty': Empty()})
    validation = {
        'val_dataloader': {'dataset': {'type': tiny.Map, 'size': 0}, 'batch_size': 2},
        'val_cfg': {},
        'val_evaluator': {'type': tiny.Metric},
    }
    with pytest.raises(InputError, match='the dataset TinyMap has 0 samples'):
        trained(make_config(**validation))


def test_metrics_that_are_not_finite_are_said(make_config, capfd):
    hook = {'type': EvaluationHook, 'evaluations': [lambda clip: {'top1': NAN, 'top5': 0.5}]}
    trained(make_config(custom_hooks=[hook]))
    assert 'step 6: top1 cannot be determined (not finite)' in capfd.readouterr().err


def test_micro_batches_of_one_pair_are_no_single_pair():

    from clipdense.clip.model import build_clip
    from clipdense.clip.sizes import ClipSize, TextSize, VitSize
    from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer

    image = VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
    text = TextSize(
        width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16, vocab_size=50, context_length=8
    )
    model = ContrastivePretrainer(build_clip(ClipSize(image, text)), micro_batch=1)
    model.check_batch(2)
    with pytest.raises(InputError, match='a batch of one pair'):
        model.check_batch(1)
    sigmoid = build_clip(ClipSize(image, text, logit_bias=True))
    ContrastivePretrainer(sigmoid, loss='sigmoid').check_batch(1)


def test_equal_captions():
    ids = torch.tensor([[1, 2, 3], [1, 2, 3]])
    assert equal_captions({'token_ids': ids})
    assert not equal_captions({'token_ids': ids[:1]})
    assert not equal_captions({'token_ids': ids + torch.tensor([[0], [1]])})
    assert not equal_captions({'images': ids})
