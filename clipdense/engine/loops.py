"""The training loop: steps, position in the data, stop signals and non-finite losses."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any

import torch
import torch.distributed as dist
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATA_SAMPLERS, FUNCTIONS
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader, IterableDataset

from clipdense.data.batches import collate
from clipdense.data.faults import report_faults
from clipdense.registry import DATASETS, LOOPS, build
from clipdense.utils.dist import all_gather_object, world_size
from clipdense.utils.errors import InputError, one_line

from .checkpointing import what_remains
from .checks import (
    check_batch_size,
    check_count,
    check_tokenizer,
    leave_out_single,
    takes,
    with_batch_size,
)
from .ema import averaged
from .health import LossWatch, equal_captions, explained, listed, sample_names, without_names
from .hooks import scalar
from .parallel import read_parallel, unwrapped
from .peers import check_equal_data, share_of_batch
from .resume import (
    Position,
    ResumableSampler,
    StopSignals,
    check_position,
    place_loader,
    random_state_kept,
    set_random_state,
    steady_worker,
)


@LOOPS.register_module()
class TrainLoop(BaseLoop):
    """Trains for a number of steps or epochs over map-style or iterable data.

    Hooks are called as in MMEngine's loops, with true epochs also where the length is given in steps.  An
    epoch ends in all processes when it ends in one.  On SIGTERM or SIGINT the current step is finished, hooks
    that have ``on_interrupt`` save, and the process exits with 128 + the signal's number (143, 130).

    Args:
        runner: the runner.
        dataloader: a loader or its config; ``ResumableSampler(shuffle=True)``, and the run's seed for a
            dataset that takes one, are the defaults.
        max_steps: total number of training steps.
        max_epochs: instead of ``max_steps``, for data with a length.
        val_interval: steps between runs of the validation loop, if there is one; None for every epoch, or
            for the end of data without a length.
        val_begin: no validation before this step.

    Raises:
        InputError: neither or both of ``max_steps`` and ``max_epochs``, or less than 1; data without a
            length and without ``max_steps``; fewer samples than one batch, or shards than workers
            (``dataset.check_workers``).
    """

    def __init__(
        self,
        runner: Any,
        dataloader: DataLoader | dict,
        max_steps: int | None = None,
        max_epochs: int | None = None,
        val_interval: int | None = None,
        val_begin: int = 1,
    ) -> None:
        if (max_steps is None) == (max_epochs is None):
            raise InputError(
                'train_cfg needs exactly one of max_steps and max_epochs; set the other one to None'
            )
        check_count('train_cfg.max_steps', max_steps)
        check_count('train_cfg.max_epochs', max_epochs)
        check_count('train_cfg.val_interval', val_interval)
        if isinstance(dataloader, dict):
            total = read_parallel(runner.cfg.get('parallel')).global_batch
            dataloader = _training_defaults(dataloader, runner.seed, total)
        super().__init__(runner, dataloader)
        check_batch_size(self.dataloader)
        remark = leave_out_single(self.dataloader, unwrapped(runner.model))
        if remark:
            runner.logger.info(remark)
        if hasattr(self.dataloader.dataset, 'check_workers'):
            self.dataloader.dataset.check_workers(self.dataloader.num_workers)
        self.steps_per_epoch = _length(self.dataloader)
        if self.steps_per_epoch == 0:
            raise InputError(_too_few(self.dataloader))
        if max_steps is None:
            if self.steps_per_epoch is None:
                raise InputError('the training data has no length; use max_steps instead of max_epochs')
            max_steps = max_epochs * self.steps_per_epoch  # type: ignore[operator]
        self._max_iters = int(max_steps)
        self._max_epochs = max_epochs or -(-self._max_iters // (self.steps_per_epoch or self._max_iters))
        self.val_interval = val_interval or self.steps_per_epoch or self._max_iters
        self.val_begin = val_begin
        self.stop_training = False  # set by MMEngine's EarlyStoppingHook
        self.waited = 0.0  # seconds, for batches
        self._iter = 0
        dataset = self.dataloader.dataset
        self.position = Position(
            0, 0, 0, *_layout(self.dataloader), _dataset_size(dataset), getattr(dataset, 'mixture', '')
        )
        self._iterable = isinstance(dataset, IterableDataset)
        check_equal_data(
            {
                'its number of samples or shards': self.position.dataset_size,
                'its mixture': self.position.mixture or 'one source',
                'batch_size': self.position.batch_size,
                'max_steps': self._max_iters,
            }
        )
        self._random_state: dict[str, Any] | None = None
        self._control = _control_group()
        self._watch = LossWatch()
        self._signal = 0  # that all processes know of
        self._check_batches()
        getattr(unwrapped(runner.model), 'set_steps', lambda steps: None)(self._max_iters)

    @property
    def max_epochs(self) -> int:
        """Number of epochs, counting a partial last one."""
        return self._max_epochs

    @property
    def max_iters(self) -> int:
        """Total number of training steps."""
        return self._max_iters

    @property
    def epoch(self) -> int:
        """The current epoch, from 0."""
        return self.position.epoch

    @property
    def iter(self) -> int:
        """Finished steps; within hooks after a step, that step does not count yet (MMEngine's convention)."""
        return self._iter

    def resume_at(self, position: Position, random_state: dict[str, Any] | None) -> None:
        """Continue after ``position``, with these generators.

        Raises:
            InputError: the position cannot be expressed with the present batch size and processes.
        """
        self.position = check_position(position, self.position, self._iterable)
        self._iter = self.position.step
        self._random_state = random_state

    def run(self) -> torch.nn.Module:
        """Train to the end.

        Raises:
            SystemExit: stopped by a signal, after saving.
            InputError: the loss is not finite.
        """
        if self._iter >= self._max_iters:
            self.runner.logger.warning(
                f'it has {self._iter} of {self._max_iters} steps: nothing is trained; to continue, raise '
                'train_cfg.max_steps (or max_epochs)'
            )
        self.runner.call_hook('before_train')
        with StopSignals() as signals:
            while self._iter < self._max_iters and not self.stop_training:
                self._run_epoch(signals)
        self.runner.call_hook('after_train')
        return self.runner.model

    def _run_epoch(self, signals: StopSignals) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        place_loader(self.dataloader, self.runner.seed, self.position)
        batches = iter(self.dataloader)
        if self._random_state is not None:
            set_random_state(self._random_state)
            self._random_state = None
        ended = False
        try:
            for batch in self._until_one_ends(batches):
                self._run_step(batch, signals)
                self._stop_if_asked(signals)
                if self._iter >= self._max_iters or self.stop_training:
                    break
            else:
                ended = True
        finally:  # a traceback would keep the workers alive
            getattr(batches, '_shutdown_workers', lambda: None)()
        report_faults(self.dataloader.dataset)
        if not self.position.batches:
            raise InputError(_too_few(self.dataloader))
        self.runner.call_hook('after_train_epoch')
        if ended:
            self.position = replace(self.position, epoch=self.position.epoch + 1, batches=0)

    def _run_step(self, batch: Any, signals: StopSignals) -> None:
        runner, index = self.runner, self.position.batches
        names = sample_names(batch)
        if not getattr(unwrapped(runner.model), 'takes_names', False):
            batch = without_names(batch)
        if self._iter < 3 and equal_captions(batch):
            runner.logger.warning(
                f'step {self._iter + 1}: all captions of the batch are equal, so its images cannot be told '
                f'apart{listed(names)}'
            )
        runner.call_hook('before_train_iter', batch_idx=index, data_batch=batch)
        outputs = self._step(batch, names)
        fault = self._nonfinite(outputs, names)
        failed, self._signal = self._agree(int(fault is not None), signals.received)
        if failed:
            self._refuse_nonfinite(fault, names)
        self._remark(outputs, names)
        self.position = replace(self.position, step=self._iter + 1, batches=index + 1)
        runner.call_hook('after_train_iter', batch_idx=index, data_batch=batch, outputs=outputs)
        self._iter += 1
        due = self._iter % self.val_interval == 0 or self._iter == self._max_iters
        if runner.val_loop is not None and due and self._iter >= self.val_begin:
            with random_state_kept(), averaged(runner):
                runner.val_loop.run()
            runner.model.train()

    def _until_one_ends(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, ending in all processes as soon as one process has no more."""
        while True:
            begin = time.monotonic()
            try:
                batch = next(batches, None)
            except InputError as error:  # torch wraps a worker's error in a traceback
                raise InputError(str(error).rpartition('InputError: ')[2].strip()) from error
            except RuntimeError as error:
                if 'DataLoader worker' not in str(error):
                    raise
                raise InputError(
                    f'a data worker died before step {self._iter + 1} ({one_line(error)}); if it ran out of '
                    f'memory, lower num_workers or batch_size; {what_remains(self.runner.work_dir)}'
                ) from error
            self.waited += time.monotonic() - begin
            if self._agree(int(batch is None))[0] if self._iterable else batch is None:
                return
            yield batch

    def _step(self, batch: Any, names: list[str]) -> dict[str, Any]:
        """One step of the model; an error names the samples."""
        try:
            return self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        except InputError:
            raise
        except Exception as error:
            refusal = explained(error, self._iter + 1, names)
            if refusal is not None:
                raise refusal from error
            self.runner.logger.error(f'step {self._iter + 1} failed{listed(names)}')
            raise

    def _nonfinite(self, outputs: dict[str, Any], names: list[str]) -> str | None:
        """What is not finite in this process and more than may be skipped, or None."""
        loss, step = scalar(outputs.get('loss', 0.0)), self._iter + 1
        skipped = getattr(self.runner.optim_wrapper, 'skipped', 0)
        allowed = getattr(self.runner.optim_wrapper, 'max_skips', 0)
        if skipped and skipped <= allowed:
            self.runner.logger.warning(
                f'step {step} skipped, its gradients are not finite (loss {loss:g}): {skipped} of {allowed}'
                + listed(names)
            )
            return None
        if not isfinite(loss):
            return f'the loss is {loss:g}'
        return 'the gradients are not finite' if skipped else None

    def _refuse_nonfinite(self, fault: str | None, names: list[str]) -> None:
        """Stop all processes, with what one of them found."""
        everyone = all_gather_object((fault, names))
        place, (what, bad) = next((p, one) for p, one in enumerate(everyone) if one[0] is not None)
        where = f' in process {place} of {len(everyone)}' if len(everyone) > 1 else ''
        raise InputError(
            f'{what} at step {self._iter + 1} (epoch {self.epoch}){where}{listed(bad)}; lower the learning '
            'rate, use a longer warm-up, set clip_grad, or do not use fp16; '
            + what_remains(self.runner.work_dir)
        )

    def _remark(self, outputs: dict[str, Any], names: list[str]) -> None:
        """Warn of a loss that teaches nothing or explodes."""
        if 'loss' in outputs:
            remark = self._watch.remark(scalar(outputs['loss']))
            if remark:
                self.runner.logger.warning(f'step {self._iter + 1}: {remark}{listed(names)}')

    def _check_batches(self) -> None:
        """Ask the model about batches of this size, and of the size of the last one of an epoch."""
        check_tokenizer(unwrapped(self.runner.model), self.dataloader.dataset)
        check = getattr(unwrapped(self.runner.model), 'check_batch', None)
        if check is None:
            return
        size, last = self.position.batch_size, 0
        count = _length(self.dataloader.sampler) if not self._iterable else None
        if count is not None and self.dataloader.batch_sampler is not None:
            last = 0 if getattr(self.dataloader.batch_sampler, 'drop_last', True) else count % size
            size, last = (size, last) if count >= size else (count or size, 0)
        check(size)
        if last:
            check(last, last=True)

    def _stop_if_asked(self, signals: StopSignals) -> None:
        number = signals.received if world_size() == 1 else self._signal
        if not number:
            return
        self.runner.call_hook('on_interrupt')
        name = signal.Signals(number).name
        self.runner.logger.warning(f'stopped by {name} after step {self._iter}; use --resume to continue')
        raise SystemExit(128 + number)

    def _agree(self, *numbers: int) -> Sequence[int]:
        """The maximum of each number over all processes."""
        if world_size() == 1:
            return numbers
        largest = torch.tensor(numbers)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=self._control)
        return largest.tolist()


def build_loader(config: dict[str, Any], seed: int = 0) -> DataLoader:
    """Build a data loader from a config in MMEngine's format; only dataset and batch_size are required.

    Without a sampler, map-style datasets are read in order, completely; iterable ones never have one.
    Batches are stacked by ``data.batches.collate``.

    Raises:
        InputError: a dataset without samples.
    """
    config = dict(config)
    dataset = build(with_batch_size(config.pop('dataset'), config.get('batch_size', 1)), DATASETS)
    if hasattr(dataset, 'full_init'):  # MMEngine's own
        dataset.full_init()
    if _length(dataset) == 0 and not isinstance(dataset, IterableDataset):
        raise InputError(f'the dataset {type(dataset).__name__} has 0 samples; check its files and its split')
    sampler, batch_sampler = config.pop('sampler', None), config.pop('batch_sampler', None)
    if isinstance(dataset, IterableDataset):
        sampler = batch_sampler = None
    elif sampler is None:
        sampler = {'type': DefaultSampler, 'shuffle': False}
    if isinstance(sampler, dict):
        sampler = DATA_SAMPLERS.build(sampler, default_args={'dataset': dataset, 'seed': seed})
    if isinstance(batch_sampler, dict):
        arguments = {'sampler': sampler, 'batch_size': config.pop('batch_size')}
        batch_sampler, sampler = DATA_SAMPLERS.build(batch_sampler, default_args=arguments), None
    collate_fn = config.pop('collate_fn', collate)
    if isinstance(collate_fn, dict):
        arguments = dict(collate_fn)
        kind = arguments.pop('type')
        collate_fn = partial(FUNCTIONS.get(kind) if isinstance(kind, str) else kind, **arguments)
    config.setdefault('worker_init_fn', steady_worker)
    return DataLoader(dataset, sampler=sampler, batch_sampler=batch_sampler, collate_fn=collate_fn, **config)


def _training_defaults(config: dict[str, Any], seed: int, total: int | None = None) -> dict[str, Any]:
    """The config of a training loader with its defaults.  Evaluation data keeps its own seed."""
    config = dict(config)
    if total is not None:
        config['batch_size'] = share_of_batch(total)
    if 'batch_sampler' not in config:
        config.setdefault('sampler', {'type': ResumableSampler, 'shuffle': True})
    if takes(config['dataset'], 'seed'):
        config['dataset'] = {'seed': seed, **config['dataset']}
    return config


def _control_group() -> Any:
    """A CPU process group for control messages, to avoid GPU synchronization; None is the default group."""
    if world_size() == 1 or dist.get_backend() == 'gloo':
        return None
    return dist.new_group(backend='gloo')


def _length(sized: Any) -> int | None:
    """The length; None for streams, whose ``__len__`` may be missing or raise."""
    try:
        return len(sized)
    except TypeError:
        return None


def _layout(loader: DataLoader) -> tuple[int, int, int]:
    """Batch size of one process, processes, data workers."""
    batch_size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
    return batch_size or getattr(loader.dataset, 'batch_size', None) or 1, world_size(), loader.num_workers


def _dataset_size(dataset: Any) -> int:
    """Samples, or shards of a stream; 0 if unknown."""
    if isinstance(dataset, IterableDataset):
        return len(getattr(dataset, 'shards', ()))
    return _length(dataset) or 0


def _too_few(loader: DataLoader) -> str:
    batch_size, processes, workers = _layout(loader)
    count = _length(loader.dataset)
    size = 'no batch' if count is None else f'{count} samples'
    spread = f' in each of {processes} processes' if processes > 1 else ''
    spread += f' and {workers} workers' if isinstance(loader.dataset, IterableDataset) and workers > 1 else ''
    return (
        f'the training data has {size}, less than one batch of {batch_size}{spread}; lower batch_size, '
        'the number of processes or workers, or use more data'
    )
