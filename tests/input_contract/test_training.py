"""The tables below "Training" of docs/input_contract.md."""

from __future__ import annotations

import logging
import multiprocessing
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from mmengine.hooks import Hook
from torch import nn
from torch.utils.data import Dataset

from clipdense.clip.model import build_clip
from clipdense.clip.sizes import ClipSize, TextSize, VitSize
from clipdense.engine import CheckpointHook, EvaluationHook, Runner, launch
from clipdense.engine.checkpointing import read_checkpoint
from clipdense.methods.contrastive.pretrainer import ContrastivePretrainer
from clipdense.tasks.model import Model

SECTION = 'Training'

IMAGE = VitSize(image_size=16, patch_size=8, width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16)
TEXT = TextSize(width=32, layers=1, num_heads=2, mlp_width=64, embed_dim=16, vocab_size=50, context_length=8)
USED = """
import sys; from pathlib import Path; from clipdense.utils.files import locked
with locked(Path(sys.argv[1])):
    print('locked', flush=True); sys.stdin.read()
"""


class Numbers(Model):
    """A linear regression."""

    def __init__(self, factor: float = 1.0, norm: bool = False, frozen: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1) if norm else nn.Identity())
        self.factor = factor
        self.requires_grad_(not frozen)

    def forward(self, images, mode='tensor'):
        return {'loss': self.factor * (self.layers(images) - 1).square().mean()}


class Samples(Dataset):
    """Named samples; one may be NaN."""

    def __init__(self, size: int = 8, bad: int = -1) -> None:
        self.size, self.bad = size, bad

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        value = float('nan') if index == self.bad else float(index)
        return {'images': torch.full((3,), value), 'names': f'{index}.jpg'}


class Pairs(Samples):
    """Images with token ids."""

    def __init__(self, size: int = 8, equal: bool = False) -> None:
        super().__init__(size)
        self.equal = equal

    def __getitem__(self, index):
        ids = torch.tensor([1, 2 if self.equal else 2 + index, 49, 0, 0, 0, 0, 0])
        return {'images': torch.full((3, 16, 16), index, dtype=torch.uint8), 'token_ids': ids}


class Pass(logging.Handler):
    """Passes warnings of the log on to ``warnings``."""

    def emit(self, record):
        warnings.warn(record.getMessage(), stacklevel=1)


def run(folder, model=None, data=None, size=2, steps=4, drop_last=False, **entries) -> Runner:
    """Train a tiny model."""
    loader = {'dataset': data or Samples(), 'batch_size': size, 'drop_last': drop_last}
    checkpoint = {'type': CheckpointHook, 'interval': 1, 'max_keep': -1, **entries.pop('checkpoint', {})}
    rate = entries.pop('lr', 0.01)
    config = {
        'model': model or Numbers(),
        'work_dir': str(folder / 'run'),
        'train_dataloader': loader,
        'train_cfg': {'max_steps': steps},
        'optim_wrapper': {'optimizer': {'type': torch.optim.SGD, 'lr': rate}, 'precision': 'fp32'},
        'default_hooks': {'checkpoint': checkpoint},
        'randomness': {'seed': 0},
        **entries,
    }
    runner = Runner.from_cfg(config)
    runner.logger.handlers.append(Pass(logging.WARNING))
    runner.train()
    return runner


def clip(**options):
    return ContrastivePretrainer(build_clip(ClipSize(IMAGE, TEXT)), **options)


def resumed(folder, damage=None, before=3, after=5, **changes):
    """Train, damage something, and train on."""
    run(folder, steps=before)
    if damage:
        damage(folder / 'run' / f'step_{before}.pth')
    assert run(folder, steps=after, resume=True, **changes).iter == after


def used(folder):
    run(folder)
    launch.train('contrastive/clip_scenes', folder / 'run')


def the_same(folder):
    """The last of three steps is lost, and made again."""
    weights = run(folder, steps=3).model.state_dict()
    for name in ('step_3.pth', 'last_checkpoint'):
        (folder / 'run' / name).unlink()
    again = run(folder, steps=3, resume=True).model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def cut_all(path):
    for other in path.parent.glob('step_*.pth'):
        cut(other)


def diverge(path):
    content = torch.load(path, weights_only=True)
    content['state_dict']['layers.0.weight'].fill_(2e29)
    torch.save(content, path)


def foreign(path):
    for other in path.parent.glob('step_*.pth'):
        torch.save({'meta': {}, 'state_dict': {}, 'optimizer': {}}, other)


def best(folder):
    evaluation = {'type': EvaluationHook, 'evaluations': [lambda model: {'top1': 1.0}]}
    run(folder, checkpoint={'save_best': 'top1'}, custom_hooks=[evaluation])
    run(folder, resume=True, load_from=str(folder / 'run' / 'best.pth'))


def in_use(folder):
    (folder / 'run').mkdir()
    command = [sys.executable, '-c', USED, str(folder / 'run')]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        try:
            run(folder)
        finally:
            other.stdin.close()


class Spoil(Hook):
    priority = 'HIGH'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        runner.model.layers[0].weight.data.fill_(float('nan'))


def full_disk(folder, **options):
    """Train where files can have 6,000 bytes, and repeat what it said."""

    def child():
        torch.set_num_threads(1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            try:
                queue.put((run(folder, checkpoint=options).iter, [str(one.message) for one in caught]))
            except Exception as error:
                queue.put((error, []))

    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    process = context.Process(target=child)
    process.start()
    result, said = queue.get(timeout=60)
    process.join()
    if isinstance(result, Exception):
        raise result
    assert result == 4, 'trained to the end'
    for line in said:
        warnings.warn(line, stacklevel=1)


def in_a_file(folder):
    (folder / 'file').touch()
    run(folder / 'file')


def a_smaller_last_batch(folder):
    assert run(folder, data=Samples(7), steps=8).iter == 8


def a_whole_run(folder):
    runner = run(folder)
    content = read_checkpoint(Path(runner.work_dir) / 'step_4.pth')
    assert content['position']['step'] == 4


READ = {
    'a batch of samples': a_whole_run,
    'a smaller last batch of an epoch': a_smaller_last_batch,
    'fewer samples than one batch, `drop_last=True`': lambda f: run(f, data=Samples(1), drop_last=True),
    'batches of one pair, contrastive loss': lambda f: run(f, clip(), Pairs(), size=1),
    'one pair in the last batch, contrastive loss': lambda f: run(f, clip(), Pairs(5), size=4),
    'a batch whose captions are all equal': lambda f: run(f, clip(), Pairs(equal=True)),
    'a batch with a loss of exactly 0': lambda f: run(f, Numbers(0.0)),
    'one sample in the last batch, batch norm': lambda f: run(f, Numbers(norm=True), Samples(3)),
    'a single value per channel, batch norm': lambda f: run(f, Numbers(norm=True), Samples(3), size=1),
    'a sample with NaN': lambda f: run(f, data=Samples(bad=3)),
    'a model whose parameters are all frozen': lambda f: run(f, Numbers(frozen=True)),
    'a learning rate of 0': lambda f: run(f, lr=0.0),
    'a random seed below 0 or above 2^32 - 1': lambda f: launch.train('clip_scenes', f / 'run', seed=2**32),
    'a launcher, log level or start of workers that does not exist': lambda f: launch.train(
        'clip_scenes', f / 'run', options={'launcher': 'pytoch'}
    ),
    '`save_best` of a metric that no evaluation has': lambda f: run(f, checkpoint={'save_best': 'top1'}),
    'weights that are not finite after a step': lambda f: run(f, custom_hooks=[Spoil()]),
    'weights above 1e8 after a step': lambda f: run(f, lr=1e12),
    'the same config and data': the_same,
    'the newest checkpoint is cut short': lambda f: resumed(f, cut),
    'the newest checkpoint has weights up to 2e29': lambda f: resumed(f, diverge),
    'all checkpoints are cut short': lambda f: resumed(f, cut_all),
    'a checkpoint of MMEngine': lambda f: resumed(f, foreign),
    '`best.pth`': best,
    'another batch size': lambda f: resumed(f, before=2, size=4),
    'another batch size that does not divide the samples so far': lambda f: resumed(f, size=4),
    'other data, within an epoch': lambda f: resumed(f, data=Samples(10)),
    'other data, after an epoch': lambda f: resumed(f, before=4, data=Samples(10)),
    'a run that has all its steps': lambda f: resumed(f, before=4, after=4),
    'an empty folder': lambda f: run(f, resume=True),
    'a folder that another run uses': in_use,
    'a folder with checkpoints of an earlier run': used,
    'a work folder inside a file': in_a_file,
    'a full disk': full_disk,
    "a full disk, `on_error='warn'`": lambda f: full_disk(f, on_error='warn'),
}


def test_row(row, check):
    check(row, READ)
